package container

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A container has the variables that the documentation of Services lists. What the
// pod itself says wins, and may use them.
//
//shows:spec.enableServiceLinks
func TestServicesInTheEnvironment(t *testing.T) {
	service := func(name, ip string, ports ...v1.ServicePort) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	in := input()
	in.Services = func(namespace string) []*v1.Service {
		if namespace != "shop" {
			t.Errorf("asked for those of %s", namespace)
		}
		return []*v1.Service{
			service("redis-primary", "10.0.0.11", v1.ServicePort{Port: 6379}, v1.ServicePort{Name: "dns-udp", Port: 53, Protocol: v1.ProtocolUDP}),
			service("headless", v1.ClusterIPNone, v1.ServicePort{Port: 80}),
			service("elsewhere", "", v1.ServicePort{Port: 80}),
			service("six", "fd00::7", v1.ServicePort{Port: 80, Protocol: v1.ProtocolTCP}),
		}
	}
	in.Container.Env = []v1.EnvVar{{Name: "URL", Value: "redis://$(REDIS_PRIMARY_SERVICE_HOST)"}, {Name: "SIX_SERVICE_PORT", Value: "81"}}
	want := []string{
		"REDIS_PRIMARY_SERVICE_HOST=10.0.0.11", "REDIS_PRIMARY_SERVICE_PORT=6379", "REDIS_PRIMARY_SERVICE_PORT_DNS_UDP=53",
		"REDIS_PRIMARY_PORT=tcp://10.0.0.11:6379",
		"REDIS_PRIMARY_PORT_6379_TCP=tcp://10.0.0.11:6379", "REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp", "REDIS_PRIMARY_PORT_6379_TCP_PORT=6379", "REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.0.0.11",
		"REDIS_PRIMARY_PORT_53_UDP=udp://10.0.0.11:53", "REDIS_PRIMARY_PORT_53_UDP_PROTO=udp", "REDIS_PRIMARY_PORT_53_UDP_PORT=53", "REDIS_PRIMARY_PORT_53_UDP_ADDR=10.0.0.11",
		"SIX_SERVICE_HOST=fd00::7", "SIX_SERVICE_PORT=81", "SIX_PORT=tcp://[fd00::7]:80",
		"SIX_PORT_80_TCP=tcp://[fd00::7]:80", "SIX_PORT_80_TCP_PROTO=tcp", "SIX_PORT_80_TCP_PORT=80", "SIX_PORT_80_TCP_ADDR=fd00::7",
		"URL=redis://10.0.0.11",
	}
	got, err := Env(in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	in.Pod.Spec.EnableServiceLinks = ptr(false)
	if got, _ := Env(in); !slices.Equal(got, []string{"URL=redis://$(REDIS_PRIMARY_SERVICE_HOST)", "SIX_SERVICE_PORT=81"}) {
		t.Errorf("without links: %q", got)
	}
}
