# podd: make run and make test do everything; make help lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
DATE    := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PREFIX  ?= /usr/local
UNITDIR ?= $(PREFIX)/lib/systemd/system
ZSHDIR  ?= site-functions
CACHE   := .cache
BIN     ?= bin
# Code of modules that is generated, or runs seldom, is not inlined: 0.8 MB less of podd.
COLD    := k8s.io/api github.com/google/gnostic-models google.golang.org/protobuf github.com/fxamacker go.yaml.in github.com/spf13
GCFLAGS := $(COLD:%=-gcflags=%/...=-l)
export CGO_ENABLED := 0
# A Go that is older than go.mod asks for fetches the one it names.
ifneq ($(shell $(GO) env GOTOOLCHAIN 2>/dev/null),local)
export GOTOOLCHAIN := auto
endif

# Debian packages: for the demo, and for the tests on top of it.
DEMO_PACKAGES := ca-certificates
VM_PACKAGES := busybox-static qemu-system-x86 seabios cpio kmod btrfs-progs e2fsprogs iptables nftables xfsprogs xz-utils
ARM64_PACKAGES := busybox-static qemu-system-arm cpio kmod e2fsprogs xz-utils
DEB_PACKAGES := dpkg-dev lintian
SYSTEMD_PACKAGES := $(DEB_PACKAGES) busybox-static cpio debootstrap e2fsprogs kmod qemu-system-x86 seabios xz-utils
TEST_PACKAGES := $(DEMO_PACKAGES) btrfs-progs busybox-static e2fsprogs gcc iptables libc6-dev nftables python3-seccomp xfsprogs
# Debian suites whose cloud kernels make test-vm runs: 6.1, 6.12 and the newest.
KERNELS ?= bookworm trixie trixie-backports

.PHONY: help run test test-kubectl test-vm test-arm64 test-systemd soak build install uninstall deb share bench fuzz lint check go-ready packages-demo packages-test packages-deb demo-images clean

help: ## list what make can do
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: go-ready packages-demo build demo-images ## run the demo: Apache httpd and Filebeat in one pod
	@$(SUDO) demo/run.sh

build: go-ready ## build bin/podd and bin/podd-pause
	@echo "building $(BIN)/podd and $(BIN)/podd-pause"
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' $(GCFLAGS) -o $(BIN)/podd ./cmd/podd
	@$(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/podd-pause ./cmd/podd-pause

demo-images: go-ready
	@demo/build.sh $(CACHE)/demo

test: go-ready packages-test build demo-images ## run every test, kernel tests included, as root
	@.ci/prometheus $(CACHE)/prometheus
	@.ci/kubectl $(CACHE)/kubectl 1.37
	@.ci/test

test-kubectl: go-ready packages-test build ## run the tests that use kubectl with the oldest and the newest one
	@.ci/kubectl $(CACHE)/kubectl
	@$(SUDO) env "PATH=$$PATH" PODD_KERNEL_TESTS=require CGO_ENABLED=1 $(GO) test -count=1 -timeout 30m -run Kubectl ./api/... ./e2e

test-vm: go-ready ## run the kernel's tests in virtual machines: Debian's KERNELS, cgroup v2
	@.ci/packages $(VM_PACKAGES)
	@KERNELS="$(KERNELS)" vm/test.sh $(CACHE)/vm

test-arm64: go-ready ## run the arm64 programs in a virtual machine: a smoke test
	@.ci/packages $(ARM64_PACKAGES)
	@KERNELS=trixie ARCH=arm64 vm/test.sh $(CACHE)/vm

test-systemd: go-ready ## install the package under Debian's systemd, and restart, kill and hang the agent there
	@.ci/packages $(SYSTEMD_PACKAGES)
	@$(MAKE) --no-print-directory deb
	@$(SUDO) vm/systemd.sh $(CACHE)/systemd

soak: go-ready packages-test ## create and delete many pods, and look for what is left; starve others
	@$(SUDO) env "PATH=$$PATH" PODD_KERNEL_TESTS=require PODD_SOAK_PODS=2000 PODD_STARVE_SECONDS=180 CGO_ENABLED=1 \
		$(GO) test -tags soak -timeout 150m -run 'TestNothingIsLeft|TestAStarved|TestStrictProbes|TestFiftyWatches' -v ./e2e

bench: go-ready packages-test build ## measure, each figure beside its floor
	@$(SUDO) env "PATH=$$PATH" $(GO) run ./bench

fuzz: go-ready ## fuzz every parser for a minute each
	@.ci/fuzz 60s

lint: go-ready ## gofmt and go vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these files"; exit 1; }
	@$(GO) vet -tags vm,soak ./...

check: lint test ## what to run before sending a change

install: build share ## install programs, units, manual pages and completions (DESTDIR, PREFIX)
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin bin/podd bin/podd-pause
	install -D -m 0644 -t $(DESTDIR)$(UNITDIR) dist/systemd/*.service
	sed -i 's|/usr/bin/podd|$(PREFIX)/bin/podd|' $(DESTDIR)$(UNITDIR)/podd.service
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man1 bin/share/man/*.1
	install -D -m 0644 bin/share/podd.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/podd
	install -D -m 0644 bin/share/podd.zsh $(DESTDIR)$(PREFIX)/share/zsh/$(ZSHDIR)/_podd
	install -D -m 0644 bin/share/podd.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/podd.fish
	install -d -m 0755 $(DESTDIR)/etc/podd/manifests
	@[ -n "$(DESTDIR)" ] || echo "nothing was started; now: systemctl daemon-reload && systemctl enable --now podd"

uninstall: ## remove what install put there; pods, data and manifests stay
	@[ -n "$(DESTDIR)" ] || ! [ -d /run/systemd/system ] || systemctl disable --now podd.service || true
	rm -f $(DESTDIR)$(PREFIX)/bin/podd $(DESTDIR)$(PREFIX)/bin/podd-pause
	rm -f $(DESTDIR)$(UNITDIR)/podd.service $(DESTDIR)$(UNITDIR)/podd-pods.service
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/podd.1 $(DESTDIR)$(PREFIX)/share/man/man1/podd-*.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/podd $(DESTDIR)$(PREFIX)/share/zsh/$(ZSHDIR)/_podd
	rm -f $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/podd.fish
	@rmdir --ignore-fail-on-non-empty $(DESTDIR)/etc/podd/manifests $(DESTDIR)/etc/podd 2>/dev/null || true
	@echo "running pods go on without the agent. Kept, where there is any: manifests and settings in /etc/podd, images, volumes and"
	@echo "records in /var/lib/podd, logs in /var/log/pods and /var/log/containers, and until the next boot /run/podd"

deb: go-ready packages-deb ## build a Debian package in bin, and ask lintian about it
	@dist/deb.sh bin $(VERSION)

# What is generated from the commands themselves.
share: build
	@rm -rf bin/share
	@echo "generating manual pages and shell completions"
	@PODD_MAN_DIR=$(CURDIR)/bin/share/man SOURCE_DATE_EPOCH=$(DATE) $(GO) test -count=1 -run '^TestManPages$$' ./cmd/podd >/dev/null
	@for shell in bash zsh fish; do bin/podd completion $$shell >bin/share/podd.$$shell || exit 1; done

clean: ## remove what was built
	rm -rf bin $(CACHE)

go-ready:
	@.ci/go-ready $(GO)

packages-demo:
	@.ci/packages $(DEMO_PACKAGES)

packages-test:
	@.ci/packages $(TEST_PACKAGES)

packages-deb:
	@.ci/packages $(DEB_PACKAGES)
