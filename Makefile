# podd: make run and make test do everything; make help lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
PREFIX  ?= /usr/local
CACHE   := .cache
export CGO_ENABLED := 0
# A Go that is older than go.mod asks for fetches the one it names.
ifneq ($(shell $(GO) env GOTOOLCHAIN 2>/dev/null),local)
export GOTOOLCHAIN := auto
endif

# Debian packages: for the demo, and for the tests on top of it.
DEMO_PACKAGES := ca-certificates
VM_PACKAGES := busybox-static qemu-system-x86 seabios cpio kmod e2fsprogs iptables nftables xz-utils
TEST_PACKAGES := $(DEMO_PACKAGES) busybox-static gcc iptables libc6-dev nftables python3-seccomp

.PHONY: help run test test-vm soak build install uninstall bench fuzz lint check go-ready packages-demo packages-test demo-images clean

help: ## list what make can do
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: go-ready packages-demo build demo-images ## run the demo: Apache httpd and Filebeat in one pod
	@$(SUDO) demo/run.sh

build: go-ready ## build bin/podd and bin/podd-pause
	@echo "building bin/podd and bin/podd-pause"
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/podd ./cmd/podd
	@$(GO) build -trimpath -ldflags '-s -w' -o bin/podd-pause ./cmd/podd-pause

demo-images: go-ready
	@demo/build.sh $(CACHE)/demo

test: go-ready packages-test build demo-images ## run every test, kernel tests included, as root
	@.ci/prometheus $(CACHE)/prometheus
	@.ci/test

test-vm: go-ready ## run the kernel's tests in a virtual machine: Debian's kernel, cgroup v2
	@.ci/packages $(VM_PACKAGES)
	@vm/test.sh $(CACHE)/vm

soak: go-ready packages-test ## create and delete many pods, and look for what is left; starve others
	@$(SUDO) env "PATH=$$PATH" PODD_KERNEL_TESTS=require PODD_SOAK_PODS=2000 PODD_STARVE_SECONDS=180 CGO_ENABLED=1 \
		$(GO) test -timeout 60m -run 'TestNothingIsLeft|TestAStarved|TestStrictProbes' -v ./e2e

bench: go-ready packages-test build ## measure, each figure beside its floor
	@$(SUDO) env "PATH=$$PATH" $(GO) run ./bench

fuzz: go-ready ## fuzz every parser for a minute each
	@.ci/fuzz 60s

lint: go-ready ## gofmt and go vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these files"; exit 1; }
	@$(GO) vet ./...

check: lint test ## what to run before sending a change

install: build ## install the two programs and the manifest directory
	install -D -m 0755 bin/podd $(DESTDIR)$(PREFIX)/bin/podd
	install -D -m 0755 bin/podd-pause $(DESTDIR)$(PREFIX)/bin/podd-pause
	install -d -m 0755 $(DESTDIR)/etc/podd/manifests

uninstall: ## remove the programs; data and manifests stay
	rm -f $(DESTDIR)$(PREFIX)/bin/podd $(DESTDIR)$(PREFIX)/bin/podd-pause
	@echo "kept: /etc/podd, /var/lib/podd, /var/log/pods"

clean: ## remove what was built
	rm -rf bin $(CACHE)

go-ready:
	@.ci/go-ready $(GO)

packages-demo:
	@.ci/packages $(DEMO_PACKAGES)

packages-test:
	@.ci/packages $(TEST_PACKAGES)
