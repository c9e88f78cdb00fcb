package rest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

var serviceResource = schema.GroupResource{Resource: "services"}

// Ports of the node that a Service can have, as in Kubernetes.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// serviceAddresses gives out addresses and ports to Services. Whoever holds it
// may look for one that is free and store it.
type serviceAddresses struct {
	sync.Mutex
	store  *objects.Store
	within netip.Prefix
}

func serviceKind(addresses *serviceAddresses) Kind {
	return Kind{
		Resource:            Served("", "services"),
		New:                 func() objects.Object { return &v1.Service{} },
		Name:                validation.NameIsDNS1035Label,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		ReturnsDeleted:      true,
		Serial:              addresses,
		Fields: map[string]func(objects.Object) string{
			"spec.clusterIP": typedResult(func(s *v1.Service) string { return s.Spec.ClusterIP }),
			"spec.type":      typedResult(func(s *v1.Service) string { return string(s.Spec.Type) }),
		},
		Default:       typed(serviceDefaults),
		PrepareCreate: typed(func(s *v1.Service) { s.Status = v1.ServiceStatus{} }),
		PrepareUpdate: func(o, old objects.Object) { keepServiceAddresses(o.(*v1.Service), old.(*v1.Service)) },
		Validate:      typedResult(validateService),
		Warnings: func(_, old objects.Object) []string {
			if old != nil {
				return nil
			}
			return []string{"spec: no traffic reaches a Service here yet; containers have its environment variables, and kubectl port-forward, logs and exec find its pods"}
		},
		ValidateUpdate: typed2(func(s, old *v1.Service) (errs field.ErrorList) {
			if hasClusterIP(s) && hasClusterIP(old) && old.Spec.ClusterIP != "" {
				errs = append(errs, validation.ValidateImmutableField(s.Spec.ClusterIP, old.Spec.ClusterIP, field.NewPath("spec", "clusterIP"))...)
			}
			return errs
		}),
		Admit: func(_ context.Context, o, _ objects.Object) error {
			if o == nil {
				return nil
			}
			return addresses.give(o.(*v1.Service))
		},
		SetStatus: func(dst, src objects.Object) { dst.(*v1.Service).Status = src.(*v1.Service).Status },
	}
}

// serviceDefaults are those of the API reference of Service v1.
func serviceDefaults(s *v1.Service) {
	spec := &s.Spec
	setDefault(&spec.SessionAffinity, v1.ServiceAffinityNone)
	if spec.SessionAffinity == v1.ServiceAffinityClientIP {
		setDefaultPointer(&spec.SessionAffinityConfig, v1.SessionAffinityConfig{})
		setDefaultPointer(&spec.SessionAffinityConfig.ClientIP, v1.ClientIPConfig{})
		setDefaultPointer(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, v1.DefaultClientIPServiceAffinitySeconds)
	} else {
		spec.SessionAffinityConfig = nil
	}
	setDefault(&spec.Type, v1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		setDefault(&p.Protocol, v1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.Type == v1.ServiceTypeNodePort || spec.Type == v1.ServiceTypeLoadBalancer {
		setDefault(&spec.ExternalTrafficPolicy, v1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type == v1.ServiceTypeLoadBalancer {
		setDefaultPointer(&spec.AllocateLoadBalancerNodePorts, true)
	}
	if spec.Type != v1.ServiceTypeExternalName {
		setDefaultPointer(&spec.InternalTrafficPolicy, v1.ServiceInternalTrafficPolicyCluster)
	}
	// Two names of one field.
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// hasClusterIP tells whether a Service has an address in the cluster: one given
// out, one asked for, or "None".
func hasClusterIP(s *v1.Service) bool { return s.Spec.Type != v1.ServiceTypeExternalName }

// keepServiceAddresses fills in what was given out and a client did not repeat.
func keepServiceAddresses(s, old *v1.Service) {
	if !hasClusterIP(s) {
		if s.Spec.ClusterIP == old.Spec.ClusterIP { // it had one only because it was of another type
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		}
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = nil, nil
		return
	}
	if hasClusterIP(old) && s.Spec.ClusterIP == "" {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = old.Spec.ClusterIP, slices.Clone(old.Spec.ClusterIPs)
	}
	if hasClusterIP(old) && len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = slices.Clone(old.Spec.IPFamilies)
	}
	if s.Spec.IPFamilyPolicy == nil {
		s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
	}
	inside := s.Spec.Type == v1.ServiceTypeClusterIP
	if inside && old.Spec.Type != s.Spec.Type && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		for _, before := range old.Spec.Ports {
			switch {
			case inside && p.NodePort == before.NodePort:
				p.NodePort = 0
			case !inside && p.NodePort == 0 && p.Port == before.Port && p.Protocol == before.Protocol:
				p.NodePort = before.NodePort
			}
		}
	}
}

// validateService checks a Service but for whether its addresses are free.
func validateService(s *v1.Service) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("spec")
	types := []v1.ServiceType{v1.ServiceTypeClusterIP, v1.ServiceTypeExternalName, v1.ServiceTypeLoadBalancer, v1.ServiceTypeNodePort}
	if !slices.Contains(types, s.Spec.Type) {
		errs = append(errs, field.NotSupported(at.Child("type"), s.Spec.Type, types))
	}
	if affinities := []v1.ServiceAffinity{v1.ServiceAffinityClientIP, v1.ServiceAffinityNone}; !slices.Contains(affinities, s.Spec.SessionAffinity) {
		errs = append(errs, field.NotSupported(at.Child("sessionAffinity"), s.Spec.SessionAffinity, affinities))
	}
	headless := s.Spec.ClusterIP == v1.ClusterIPNone
	if len(s.Spec.Ports) == 0 && !headless && s.Spec.Type != v1.ServiceTypeExternalName {
		errs = append(errs, field.Required(at.Child("ports"), ""))
	}
	if s.Spec.Type == v1.ServiceTypeExternalName {
		if s.Spec.ClusterIP != "" && !headless {
			errs = append(errs, field.Forbidden(at.Child("clusterIP"), "may not be set for ExternalName services"))
		}
		if s.Spec.ExternalName == "" {
			errs = append(errs, field.Required(at.Child("externalName"), ""))
		}
		for _, problem := range utilvalidation.IsDNS1123Subdomain(s.Spec.ExternalName) {
			errs = append(errs, field.Invalid(at.Child("externalName"), s.Spec.ExternalName, problem))
		}
	}
	if len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] != s.Spec.ClusterIP {
		errs = append(errs, field.Invalid(at.Child("clusterIPs"), s.Spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	if ip := s.Spec.ClusterIP; ip != "" && !headless {
		if _, err := netip.ParseAddr(ip); err != nil {
			errs = append(errs, field.Invalid(at.Child("clusterIPs").Index(0), ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
		}
	}
	for key, value := range s.Spec.Selector {
		for _, problem := range utilvalidation.IsQualifiedName(key) {
			errs = append(errs, field.Invalid(at.Child("selector"), key, problem))
		}
		for _, problem := range utilvalidation.IsValidLabelValue(value) {
			errs = append(errs, field.Invalid(at.Child("selector"), value, problem))
		}
	}
	return append(errs, validateServicePorts(s, at.Child("ports"))...)
}

func validateServicePorts(s *v1.Service, at *field.Path) (errs field.ErrorList) {
	names := map[string]bool{}
	type portOf struct {
		protocol v1.Protocol
		port     int32
	}
	ports, nodePorts := map[portOf]bool{}, map[portOf]bool{}
	for i, p := range s.Spec.Ports {
		at := at.Index(i)
		errs = append(errs, validatePortName(p.Name, len(s.Spec.Ports) > 1, at.Child("name"))...)
		if p.Name != "" && names[p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names[p.Name] = true
		errs = append(errs, validatePort(p.Port, at.Child("port"))...)
		errs = append(errs, validateProtocol(p.Protocol, at.Child("protocol"))...)
		if p.TargetPort.Type == intstr.Int {
			errs = append(errs, validatePort(p.TargetPort.IntVal, at.Child("targetPort"))...)
		} else {
			for _, problem := range utilvalidation.IsValidPortName(p.TargetPort.StrVal) {
				errs = append(errs, field.Invalid(at.Child("targetPort"), p.TargetPort.StrVal, problem))
			}
		}
		if ports[portOf{p.Protocol, p.Port}] {
			errs = append(errs, field.Duplicate(at, p))
		}
		ports[portOf{p.Protocol, p.Port}] = true
		if p.NodePort == 0 {
			continue
		}
		if s.Spec.Type == v1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if p.NodePort < firstNodePort || p.NodePort > lastNodePort {
			errs = append(errs, field.Invalid(at.Child("nodePort"), p.NodePort, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", firstNodePort, lastNodePort)))
		}
		if nodePorts[portOf{p.Protocol, p.NodePort}] {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		}
		nodePorts[portOf{p.Protocol, p.NodePort}] = true
	}
	return errs
}

// give fills in the addresses and ports of a Service, or refuses those it asks
// for and another has. The lock is held until the Service is stored.
func (a *serviceAddresses) give(s *v1.Service) error {
	if !hasClusterIP(s) {
		return nil
	}
	addresses, ports := a.taken(s)
	if s.Spec.ClusterIP == "" {
		ip, err := a.free(addresses)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		s.Spec.ClusterIP, s.Spec.ClusterIPs = ip.String(), []string{ip.String()}
	} else if ip, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil {
		problem := ""
		switch {
		case !a.within.Contains(ip):
			problem = fmt.Sprintf("failed to allocate IP %v: the provided IP (%v) is not in the valid range. The range of valid IPs is %v", ip, ip, a.within)
		case addresses[ip]:
			problem = fmt.Sprintf("failed to allocate IP %v: provided IP is already allocated", ip)
		}
		if problem != "" {
			return invalidService(s, field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, problem))
		}
	}
	if len(s.Spec.IPFamilies) == 0 {
		family := v1.IPv4Protocol
		if a.within.Addr().Is6() {
			family = v1.IPv6Protocol
		}
		s.Spec.IPFamilies = []v1.IPFamily{family}
	}
	setDefaultPointer(&s.Spec.IPFamilyPolicy, v1.IPFamilyPolicySingleStack)
	if s.Spec.Type == v1.ServiceTypeClusterIP {
		return nil
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 && ports[p.NodePort] {
			return invalidService(s, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, "provided port is already allocated"))
		}
		for try := firstNodePort + rand.N(lastNodePort-firstNodePort+1); p.NodePort == 0; try++ {
			if try > lastNodePort {
				try = firstNodePort
			}
			if len(ports) > lastNodePort-firstNodePort {
				return apierrors.NewInternalError(fmt.Errorf("no port of %d-%d is free", firstNodePort, lastNodePort))
			}
			if !ports[int32(try)] {
				p.NodePort = int32(try)
			}
		}
		ports[p.NodePort] = true
	}
	return nil
}

func invalidService(s *v1.Service, err *field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, s.Name, field.ErrorList{err})
}

// taken returns what other Services have.
func (a *serviceAddresses) taken(but *v1.Service) (map[netip.Addr]bool, map[int32]bool) {
	addresses, ports := map[netip.Addr]bool{}, map[int32]bool{}
	all, _ := a.store.List(serviceResource, "")
	for _, o := range all {
		s := o.(*v1.Service)
		if s.Namespace == but.Namespace && s.Name == but.Name {
			continue
		}
		if ip, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil {
			addresses[ip] = true
		}
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				ports[p.NodePort] = true
			}
		}
	}
	return addresses, ports
}

// free returns an address that nobody has, not always the first one, so that a
// client that remembers one does not soon talk to another Service.
func (a *serviceAddresses) free(taken map[netip.Addr]bool) (netip.Addr, error) {
	usable := min(1<<min(a.within.Addr().BitLen()-a.within.Bits(), 16), 1<<16) - 3 // without the network's own, the first, the last
	if usable <= 0 {
		return netip.Addr{}, fmt.Errorf("no address of %v is free", a.within)
	}
	start := a.within.Masked().Addr().Next().Next()
	from := rand.N(usable)
	for i := range usable {
		if ip := add(start, (from+i)%usable); !taken[ip] {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %v is free", a.within)
}

// add returns the address n after ip; n is less than 65536.
func add(ip netip.Addr, n int) netip.Addr {
	bytes := ip.AsSlice()
	for i := len(bytes) - 1; n > 0 && i >= 0; i-- {
		n += int(bytes[i])
		bytes[i] = byte(n)
		n >>= 8
	}
	sum, _ := netip.AddrFromSlice(bytes)
	return sum
}

// EnsureKubernetesService makes default/kubernetes, which clients look at to
// learn the address family, and by which pods find the API on a port. [Server.Run]
// keeps it so from then on.
func (s *Server) EnsureKubernetesService(port int32) error {
	s.apiPort.Store(&port)
	k := s.stored(serviceResource)
	addresses := k.Serial.(*serviceAddresses)
	addresses.Lock()
	defer addresses.Unlock()
	_, err := s.put(k.key(metav1.NamespaceDefault, KubernetesService), func(old objects.Object) (objects.Object, error) {
		o := &v1.Service{ObjectMeta: newMeta(metav1.NamespaceDefault, KubernetesService), Spec: v1.ServiceSpec{
			ClusterIP: addresses.within.Masked().Addr().Next().String(),
			Ports:     []v1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(port)}},
		}}
		o.Labels = map[string]string{"component": "apiserver", "provider": "kubernetes"}
		if old != nil {
			o.ObjectMeta = *metaOf(old).DeepCopy()
		}
		serviceDefaults(o)
		return o, addresses.give(o)
	})
	return err
}
