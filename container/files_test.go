package container

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

const managedHosts = "# Kubernetes-managed hosts file.\n" +
	"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"

func TestHostsFile(t *testing.T) {
	ips := []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}
	aliases := []v1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"a", "b.example"}}, {IP: "fd00::9", Hostnames: []string{"c"}}}
	for _, tt := range []struct {
		name  string
		spec  v1.PodSpec
		names Names
		host  string
		want  string
	}{
		{"a line for each address", v1.PodSpec{}, Names{Hostname: "web"}, "ignored\n",
			managedHosts + "10.0.0.5\tweb\nfd00::5\tweb\n"},
		{"with a domain", v1.PodSpec{}, Names{Hostname: "web", Domain: "sub.shop.svc.cluster.local"}, "",
			managedHosts + "10.0.0.5\tweb.sub.shop.svc.cluster.local\tweb\nfd00::5\tweb.sub.shop.svc.cluster.local\tweb\n"},
		{"with aliases", v1.PodSpec{HostAliases: aliases}, Names{Hostname: "web"}, "",
			managedHosts + "10.0.0.5\tweb\nfd00::5\tweb\n\n# Entries added by HostAliases.\n192.0.2.1\ta\tb.example\nfd00::9\tc\n"},
		{"hostNetwork takes the node's file", v1.PodSpec{HostNetwork: true, HostAliases: aliases[1:]}, Names{Hostname: "node"}, "127.0.0.1 localhost",
			"# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\nfd00::9\tc\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(HostsFile(&v1.Pod{Spec: tt.spec}, tt.names, ips, []byte(tt.host))); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-" + "b.c"
	for _, tt := range []struct {
		name    string
		pod     string
		spec    v1.PodSpec
		want    Names
		problem string
	}{
		{"the pod's name", "web", v1.PodSpec{}, Names{"web", "", "web"}, ""},
		{"spec.hostname", "web", v1.PodSpec{Hostname: "h"}, Names{"h", "", "h"}, ""},
		{"a long name is cut, without - or . at the end", long, v1.PodSpec{}, Names{strings.Repeat("a", 62), "", strings.Repeat("a", 62)}, ""},
		{"a subdomain", "web", v1.PodSpec{Subdomain: "sub"}, Names{"web", "sub.shop.svc.cluster.local", "web"}, ""},
		{"the full name", "web", v1.PodSpec{Subdomain: "sub", SetHostnameAsFQDN: ptr(true)},
			Names{"web", "sub.shop.svc.cluster.local", "web.sub.shop.svc.cluster.local"}, ""},
		{"the full name of a pod without subdomain", "web", v1.PodSpec{SetHostnameAsFQDN: ptr(true)}, Names{"web", "", "web"}, ""},
		{"hostnameOverride", "web", v1.PodSpec{Hostname: "h", Subdomain: "sub", HostnameOverride: ptr("db.example.org")},
			Names{"db.example.org", "", "db.example.org"}, ""},
		{"hostnameOverride beyond the kernel's limit", "web", v1.PodSpec{HostnameOverride: ptr(strings.Repeat("x", 65))}, Names{},
			`hostnameOverride "` + strings.Repeat("x", 65) + `": expected at most 64 characters; found 65`},
		{"a full name beyond the kernel's limit", strings.Repeat("w", 40), v1.PodSpec{Subdomain: "sub", SetHostnameAsFQDN: ptr(true)}, Names{},
			"failed to construct FQDN from pod hostname and cluster domain, FQDN " + strings.Repeat("w", 40) +
				".sub.shop.svc.cluster.local is too long (64 characters is the max, 67 characters requested)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: tt.spec}
			pod.Name, pod.Namespace = tt.pod, "shop"
			got, err := Hostname(pod, "cluster.local")
			if got != tt.want || fmt.Sprint(err) != cmpOr(tt.problem, "<nil>") {
				t.Errorf("got %+v, %v; want %+v, %s", got, err, tt.want, tt.problem)
			}
		})
	}
	pod := &v1.Pod{Spec: v1.PodSpec{Subdomain: "sub"}}
	pod.Name, pod.Namespace = "web", "shop"
	if got, err := Hostname(pod, ""); err != nil || got.Domain != "sub.shop.svc" {
		t.Errorf("without a cluster domain: got %+v, %v", got, err)
	}
}

func TestResolvConf(t *testing.T) {
	const (
		host     = "# made by hand\nnameserver 192.0.2.53\nsearch old.example\nsearch example.org. lan\noptions edns0 timeout:2\noptions timeout:3\n"
		stub     = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
		upstream = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch lan\n"
	)
	cluster := []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	missing := `MissingClusterDNS: pod: "web_shop(uid-1)". podd does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.`
	config := func(c v1.PodDNSConfig) *v1.PodDNSConfig { return &c }
	many := func(n int, format string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(format, i))
		}
		return list
	}
	for _, tt := range []struct {
		name   string
		spec   v1.PodSpec
		dns    DNS
		want   string
		events []string
	}{
		{"Default copies the node's", v1.PodSpec{DNSPolicy: v1.DNSDefault}, DNS{Host: []byte(host)},
			"search example.org lan\nnameserver 192.0.2.53\noptions edns0 timeout:3\n", nil},
		{"ClusterFirst", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, DNS{Host: []byte(host), ClusterDNS: cluster, ClusterDomain: "cluster.local"},
			"search shop.svc.cluster.local svc.cluster.local cluster.local example.org lan\nnameserver 10.96.0.10\noptions ndots:5\n", nil},
		{"ClusterFirst without a cluster", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, DNS{Host: []byte(host)},
			"search example.org lan\nnameserver 192.0.2.53\noptions edns0 timeout:3\n", []string{missing}},
		{"ClusterFirst with hostNetwork is Default", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true}, DNS{Host: []byte(host), ClusterDNS: cluster},
			"search example.org lan\nnameserver 192.0.2.53\noptions edns0 timeout:3\n", nil},
		{"ClusterFirstWithHostNet is not", v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true}, DNS{Host: []byte(host), ClusterDNS: cluster},
			"search example.org lan\nnameserver 10.96.0.10\noptions ndots:5\n", nil},
		{"None has what dnsConfig says", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: config(v1.PodDNSConfig{
			Nameservers: []string{"192.0.2.9"}, Searches: []string{"x.example"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}, {Name: "edns0"}}})},
			DNS{Host: []byte(host)}, "search x.example\nnameserver 192.0.2.9\noptions ndots:2 edns0\n", nil},
		{"dnsConfig adds, and overrides options", v1.PodSpec{DNSPolicy: v1.DNSDefault, DNSConfig: config(v1.PodDNSConfig{
			Nameservers: []string{"192.0.2.53", "192.0.2.9"}, Searches: []string{"lan", "x.example"}, Options: []v1.PodDNSConfigOption{{Name: "timeout", Value: ptr("9")}}})},
			DNS{Host: []byte(host)}, "search example.org lan x.example\nnameserver 192.0.2.53\nnameserver 192.0.2.9\noptions edns0 timeout:9\n", nil},
		{"a resolver on the node's loopback is replaced by what is behind it", v1.PodSpec{DNSPolicy: v1.DNSDefault},
			DNS{Host: []byte(stub), Upstream: []byte(upstream)}, "search lan\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n", nil},
		{"or an event says so", v1.PodSpec{DNSPolicy: v1.DNSDefault}, DNS{Host: []byte(stub)}, "search lan\noptions edns0 trust-ad\n",
			[]string{"DNSConfigForming: the node's resolv.conf names only a resolver on its own loopback (127.0.0.53), which a pod cannot reach, and the name servers behind it are not known: the pod has no name server; set dnsPolicy None and dnsConfig.nameservers"}},
		{"an upstream list that is loopback too does not help", v1.PodSpec{DNSPolicy: v1.DNSDefault},
			DNS{Host: []byte("nameserver ::1\n"), Upstream: []byte("nameserver 127.0.0.1\n")}, "",
			[]string{"DNSConfigForming: the node's resolv.conf names only a resolver on its own loopback (::1), which a pod cannot reach, and the name servers behind it are not known: the pod has no name server; set dnsPolicy None and dnsConfig.nameservers"}},
		{"dnsConfig may help out", v1.PodSpec{DNSPolicy: v1.DNSDefault, DNSConfig: config(v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}})},
			DNS{Host: []byte("nameserver 127.0.0.1\n")}, "nameserver 192.0.2.9\n", nil},
		{"hostNetwork reaches the node's resolver", v1.PodSpec{DNSPolicy: v1.DNSDefault, HostNetwork: true},
			DNS{Host: []byte(stub), Upstream: []byte(upstream)}, "search lan\nnameserver 127.0.0.53\noptions edns0 trust-ad\n", nil},
		{"one name server beside the loopback is enough to keep the file", v1.PodSpec{DNSPolicy: v1.DNSDefault},
			DNS{Host: []byte("nameserver 127.0.0.1\nnameserver 192.0.2.53\n"), Upstream: []byte(upstream)}, "nameserver 127.0.0.1\nnameserver 192.0.2.53\n", nil},
		{"too many name servers", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: config(v1.PodDNSConfig{Nameservers: many(4, "192.0.2.%d")})}, DNS{},
			"nameserver 192.0.2.0\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n",
			[]string{"DNSConfigForming: Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 192.0.2.0 192.0.2.1 192.0.2.2"}},
		{"too many search domains", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: config(v1.PodDNSConfig{Searches: many(33, "d%d")})}, DNS{},
			"search " + strings.Join(many(32, "d%d"), " ") + "\n",
			[]string{"DNSConfigForming: Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(many(32, "d%d"), " ")}},
		{"a search domain too long", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: config(v1.PodDNSConfig{Searches: []string{strings.Repeat("x", 254), "ok"}})}, DNS{},
			"search ok\n", []string{"DNSConfigForming: Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ok"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: tt.spec}
			pod.Name, pod.Namespace, pod.UID = "web", "shop", "uid-1"
			content, events := ResolvConf(pod, tt.dns)
			if string(content) != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", content, tt.want)
			}
			var got []string
			for _, e := range events {
				got = append(got, e.Reason+": "+e.Message)
			}
			if strings.Join(got, "\n") != strings.Join(tt.events, "\n") {
				t.Errorf("got events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.events, "\n"))
			}
		})
	}
}

func TestASearchLineHasABoundedLength(t *testing.T) {
	var searches []string
	for i := range 20 {
		searches = append(searches, fmt.Sprintf("%02d%s", i, strings.Repeat("x", 198)))
	}
	pod := &v1.Pod{Spec: v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Searches: searches}}}
	content, events := ResolvConf(pod, DNS{})
	want := "search " + strings.Join(searches[:10], " ") + "\n" // 10 × 200 and 9 blanks
	if string(content) != want || len(events) != 1 {
		t.Errorf("got %d bytes and %d events, want %d bytes and one event", len(content), len(events), len(want))
	}
}

func TestSysctls(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sysctl  string
		spec    v1.PodSpec
		allowed []string
		want    string
	}{
		{"a safe one", "net.ipv4.tcp_syncookies", v1.PodSpec{}, nil, ""},
		{"a safe one with slashes", "net/ipv4/tcp_syncookies", v1.PodSpec{}, nil, ""},
		{"one that is not safe", "net.core.somaxconn", v1.PodSpec{}, nil, `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{"allowed by name", "net.core.somaxconn", v1.PodSpec{}, []string{"net.core.somaxconn"}, ""},
		{"allowed by prefix", "kernel.msgmax", v1.PodSpec{}, []string{"kernel.msg*"}, ""},
		{"a name is no prefix", "net.core.somaxconn", v1.PodSpec{}, []string{"net.core"}, `forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{"one of the whole node, whatever is allowed", "vm.swappiness", v1.PodSpec{}, []string{"vm.*", "*"}, `forbidden sysctl: "vm.swappiness" not allowlisted`},
		{"one that leads elsewhere", "net/../vm/swappiness", v1.PodSpec{}, []string{"net.*"}, `forbidden sysctl: "net.//.vm.swappiness" not allowlisted`},
		{"the node's network", "net.ipv4.tcp_syncookies", v1.PodSpec{HostNetwork: true}, nil,
			`forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		{"the node's IPC", "kernel.shm_rmid_forced", v1.PodSpec{HostIPC: true}, nil,
			`forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &v1.Pod{Spec: tt.spec}
			pod.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: tt.sysctl, Value: "1"}}}
			if got := fmt.Sprint(CheckSysctls(pod, tt.allowed)); got != cmpOr(tt.want, "<nil>") {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestSandboxSysctls(t *testing.T) {
	sysctls := func(pairs ...string) *v1.PodSecurityContext {
		s := &v1.PodSecurityContext{}
		for i := 0; i < len(pairs); i += 2 {
			s.Sysctls = append(s.Sysctls, v1.Sysctl{Name: pairs[i], Value: pairs[i+1]})
		}
		return s
	}
	for _, tt := range []struct {
		name string
		spec v1.PodSpec
		want map[string]string
	}{
		{"default", v1.PodSpec{}, map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}},
		{"hostNetwork is left alone", v1.PodSpec{HostNetwork: true}, map[string]string{}},
		{"no ping group in a user namespace", v1.PodSpec{HostUsers: ptr(false)}, map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}},
		{"the pod's go first", v1.PodSpec{SecurityContext: sysctls("net/ipv4/ip_unprivileged_port_start", "1024", "net/ipv4/conf/eth0.1/forwarding", "1")},
			map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "0 2147483647",
				"net.ipv4.conf.eth0/1.forwarding": "1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := SandboxSysctls(&v1.Pod{Spec: tt.spec}); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.53\nsearch a b.\noptions x:1\n"), []byte("nameserver 192.0.2.1\n"))
	f.Fuzz(func(t *testing.T, host, upstream []byte) {
		pod := &v1.Pod{Spec: v1.PodSpec{DNSPolicy: v1.DNSDefault}}
		content, _ := ResolvConf(pod, DNS{Host: host, Upstream: upstream})
		r := parseResolver(content)
		if len(r.nameservers) > maxNameservers || len(r.searches) > maxSearches || len(strings.Join(r.searches, " ")) > maxSearchLine {
			t.Errorf("beyond the limits:\n%s", content)
		}
		if len(r.nameservers) > 0 && onlyLoopback(r.nameservers) && string(r.bytes()) == string(parseResolver(host).bytes()) {
			t.Errorf("a loopback resolver was copied:\n%s", content)
		}
	})
}
