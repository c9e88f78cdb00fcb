package container

import (
	"cmp"
	"net"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// serviceVariables are what a container is told of the Services of its namespace.
// Those without an address are left out.
// Source: Kubernetes docs, "Service", environment variables.
func serviceVariables(in Input) *variables {
	vars := &variables{}
	if links := in.Pod.Spec.EnableServiceLinks; in.Services == nil || links != nil && !*links {
		return vars
	}
	variable := func(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
	for _, s := range in.Services(in.Pod.Namespace) {
		ip := s.Spec.ClusterIP
		if ip == "" || ip == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		name := variable(s.Name)
		vars.set(name+"_SERVICE_HOST", ip)
		vars.set(name+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
		for _, p := range s.Spec.Ports {
			if p.Name != "" {
				vars.set(name+"_SERVICE_PORT_"+variable(p.Name), strconv.Itoa(int(p.Port)))
			}
		}
		for i, p := range s.Spec.Ports {
			port, protocol := strconv.Itoa(int(p.Port)), string(cmp.Or(p.Protocol, v1.ProtocolTCP))
			url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
			if i == 0 {
				vars.set(name+"_PORT", url)
			}
			link := name + "_PORT_" + port + "_" + protocol
			vars.set(link, url)
			vars.set(link+"_PROTO", strings.ToLower(protocol))
			vars.set(link+"_PORT", port)
			vars.set(link+"_ADDR", ip)
		}
	}
	return vars
}
