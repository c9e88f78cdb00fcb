package container

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Names are what a pod is called.
type Names struct {
	Hostname string // the pod's first name, $HOSTNAME of its containers
	Domain   string // empty without spec.subdomain
	Kernel   string // for sethostname(2) and /etc/hostname
}

const (
	maxHostname       = 63 // of a DNS label
	maxKernelHostname = 64 // __NEW_UTS_LEN
)

// Hostname returns the names of a pod with a network of its own (with
// hostNetwork the node's name holds). Its error, a full name that the kernel
// does not take, fails the sandbox.
func Hostname(pod *v1.Pod, clusterDomain string) (Names, error) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		if len(*o) > maxKernelHostname {
			return Names{}, fmt.Errorf("hostnameOverride %q: expected at most %d characters; found %d", *o, maxKernelHostname, len(*o))
		}
		return Names{Hostname: *o, Kernel: *o}, nil
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > maxHostname {
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	names := Names{Hostname: name, Kernel: name}
	if pod.Spec.Subdomain == "" {
		return names, nil
	}
	names.Domain = strings.TrimSuffix(pod.Spec.Subdomain+"."+pod.Namespace+".svc."+clusterDomain, ".")
	if full := pod.Spec.SetHostnameAsFQDN; full != nil && *full {
		names.Kernel = name + "." + names.Domain
		if n := len(names.Kernel); n > maxKernelHostname {
			return Names{}, fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
				names.Kernel, maxKernelHostname, n)
		}
	}
	return names, nil
}

// HostsFile returns a pod's /etc/hosts, in the kubelet's form. ips are the
// pod's; hostFile is the node's own /etc/hosts, used with hostNetwork.
func HostsFile(pod *v1.Pod, names Names, ips []netip.Addr, hostFile []byte) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(hostFile)
		if len(hostFile) > 0 && hostFile[len(hostFile)-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if names.Domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, names.Hostname, names.Domain, names.Hostname)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, names.Hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}

// DNS is what a node knows of names.
type DNS struct {
	// Host is the node's resolv.conf. Upstream is the file that lists the real
	// name servers behind a resolver on the node itself
	// (/run/systemd/resolve/resolv.conf); empty where there is none.
	Host, Upstream []byte
	ClusterDNS     []netip.Addr // of dnsPolicy ClusterFirst; usually none
	ClusterDomain  string
}

// Event is something that a pod's author should be told: a Warning.
type Event struct{ Reason, Message string }

// Limits of a resolv.conf: the kubelet's, which are glibc's for name servers.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLine   = 2048
	maxSearchDomain = 253
)

// resolver is the content of a resolv.conf.
type resolver struct{ nameservers, searches, options []string }

// ResolvConf returns a pod's /etc/resolv.conf and what about it the author
// should know.
//
// A name server on the node's loopback cannot be reached from a pod's network.
// Where the node's file has no other, Upstream is used in its place, and an
// event tells when that does not help either; the node's file is never copied
// then. A pod with hostNetwork reaches that resolver, and keeps it.
func ResolvConf(pod *v1.Pod, dns DNS) ([]byte, []Event) {
	var events []Event
	warn := func(reason, format string, args ...any) {
		events = append(events, Event{reason, fmt.Sprintf(format, args...)})
	}
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = v1.DNSDefault
	}
	if policy == "" || policy == v1.DNSClusterFirstWithHostNet {
		policy = v1.DNSClusterFirst
	}
	if policy == v1.DNSClusterFirst && len(dns.ClusterDNS) == 0 {
		warn("MissingClusterDNS", "pod: %q. podd does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
			pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", pod.Spec.DNSPolicy, v1.DNSDefault)
		policy = v1.DNSDefault
	}

	var r resolver
	var unreachable []string
	host := parseResolver(dns.Host)
	switch policy {
	case v1.DNSClusterFirst:
		for _, ip := range dns.ClusterDNS {
			r.nameservers = append(r.nameservers, ip.String())
		}
		if d := dns.ClusterDomain; d != "" {
			r.searches = []string{pod.Namespace + ".svc." + d, "svc." + d, d}
		}
		r.searches = append(r.searches, host.searches...)
		r.options = []string{"ndots:5"}
	case v1.DNSDefault:
		r = host
		if !pod.Spec.HostNetwork && onlyLoopback(host.nameservers) {
			unreachable = host.nameservers
			r = resolver{searches: host.searches, options: host.options}
			if upstream := parseResolver(dns.Upstream); len(upstream.nameservers) > 0 && !onlyLoopback(upstream.nameservers) {
				r, unreachable = upstream, nil
			}
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.nameservers = append(r.nameservers, c.Nameservers...)
		r.searches = append(r.searches, c.Searches...)
		for _, o := range c.Options {
			text := o.Name
			if o.Value != nil {
				text += ":" + *o.Value
			}
			r.options = setOption(r.options, text)
		}
	}
	r.nameservers, r.searches = unique(r.nameservers), unique(r.searches)

	if len(r.nameservers) == 0 && len(unreachable) > 0 {
		warn("DNSConfigForming", "the node's resolv.conf names only a resolver on its own loopback (%s), which a pod cannot reach, and the name servers behind it are not known: the pod has no name server; set dnsPolicy None and dnsConfig.nameservers",
			strings.Join(unreachable, " "))
	}
	if searches := fitting(r.searches); len(searches) < len(r.searches) {
		r.searches = searches
		warn("DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s",
			strings.Join(searches, " "))
	}
	if len(r.nameservers) > maxNameservers {
		r.nameservers = r.nameservers[:maxNameservers]
		warn("DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s",
			strings.Join(r.nameservers, " "))
	}
	return r.bytes(), events
}

func (r resolver) bytes() []byte {
	var b bytes.Buffer
	if len(r.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.searches, " "))
	}
	for _, n := range r.nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", n)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.Bytes()
}

// parseResolver reads a resolv.conf: resolv.conf(5). The last search line
// counts, options add up.
func parseResolver(text []byte) resolver {
	var r resolver
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' || fields[0][0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(fields) > 1 {
				r.nameservers = append(r.nameservers, fields[1])
			}
		case "search":
			r.searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.searches = append(r.searches, s)
			}
		case "options":
			for _, o := range fields[1:] {
				r.options = setOption(r.options, o)
			}
		}
	}
	return r
}

// setOption replaces an option of the same name.
func setOption(options []string, option string) []string {
	name, _, _ := strings.Cut(option, ":")
	for i, o := range options {
		if n, _, _ := strings.Cut(o, ":"); n == name {
			options[i] = option
			return options
		}
	}
	return append(options, option)
}

// onlyLoopback is true of an empty list too: the resolver then asks 127.0.0.1.
func onlyLoopback(nameservers []string) bool {
	return !slices.ContainsFunc(nameservers, func(n string) bool {
		ip, err := netip.ParseAddr(n)
		return err != nil || !ip.Unmap().IsLoopback()
	})
}

func unique(list []string) []string {
	var kept []string
	for _, s := range list {
		if !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// fitting returns the search domains that a resolver may be given.
func fitting(searches []string) []string {
	var kept []string
	length := 0
	for _, s := range searches {
		if len(s) > maxSearchDomain {
			continue
		}
		if len(kept) == maxSearches || length+len(s) > maxSearchLine {
			break
		}
		kept = append(kept, s)
		length += len(s) + 1
	}
	return kept
}
