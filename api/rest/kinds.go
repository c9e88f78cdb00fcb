package rest

import (
	"net/netip"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

// KindOptions is what [Kinds] need to know.
type KindOptions struct {
	Store *objects.Store
	// Services get their addresses from here; the first one is that of
	// default/kubernetes. Invalid: 10.96.0.0/16.
	ServiceRange netip.Prefix
	NodeProxy    *Subresource // of nodes; nil: there is none
}

// Kinds returns the kinds that are only stored, with the rules that Kubernetes
// has for them; those of pods, which PodTemplate shares, are package declared's.
func Kinds(o KindOptions) []Kind {
	setDefault(&o.ServiceRange, netip.MustParsePrefix("10.96.0.0/16"))
	services := &serviceAddresses{store: o.Store, within: o.ServiceRange}
	return []Kind{
		configMapKind(),
		secretKind(),
		namespaceKind(),
		serviceAccountKind(),
		serviceKind(services),
		endpointsKind(),
		endpointSliceKind(),
		eventKind(),
		eventViewKind(),
		leaseKind(),
		runtimeClassKind(),
		persistentVolumeKind(),
		persistentVolumeClaimKind(o.Store),
		nodeKind(o.NodeProxy),
	}
}

func serviceAccountKind() Kind {
	return Kind{
		Resource:            Served("", "serviceaccounts"),
		New:                 func() objects.Object { return &v1.ServiceAccount{} },
		Unserved:            map[string]string{"token": "podd issues no tokens for service accounts: nobody is one here; users come from `podd kubeconfig --user NAME`"},
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
	}
}

func leaseKind() Kind {
	return Kind{
		Resource:       Served("coordination.k8s.io", "leases"),
		New:            func() objects.Object { return &coordinationv1.Lease{} },
		CreateOnUpdate: true,
		Validate: typedResult(func(l *coordinationv1.Lease) field.ErrorList {
			at := field.NewPath("spec")
			var errs field.ErrorList
			if n := l.Spec.LeaseDurationSeconds; n != nil && *n <= 0 {
				errs = append(errs, field.Invalid(at.Child("leaseDurationSeconds"), *n, "must be greater than 0"))
			}
			if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
				errs = append(errs, field.Invalid(at.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
			}
			if l.Spec.Strategy != nil && *l.Spec.Strategy != coordinationv1.OldestEmulationVersion {
				errs = append(errs, field.NotSupported(at.Child("strategy"), *l.Spec.Strategy, []coordinationv1.CoordinatedLeaseStrategy{coordinationv1.OldestEmulationVersion}))
			}
			return errs
		}),
	}
}

func runtimeClassKind() Kind {
	return Kind{
		Resource: Served("node.k8s.io", "runtimeclasses"),
		New:      func() objects.Object { return &nodev1.RuntimeClass{} },
		Validate: typedResult(func(c *nodev1.RuntimeClass) field.ErrorList {
			var errs field.ErrorList
			for _, problem := range validation.NameIsDNSLabel(c.Handler, false) {
				errs = append(errs, field.Invalid(field.NewPath("handler"), c.Handler, problem))
			}
			if c.Overhead != nil {
				at := field.NewPath("overhead", "podFixed")
				for name, q := range c.Overhead.PodFixed {
					if q.Sign() < 0 {
						errs = append(errs, field.Invalid(at.Key(string(name)), q.String(), "must be greater than or equal to 0"))
					}
				}
			}
			return errs
		}),
		ValidateUpdate: typed2(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
		}),
	}
}

func endpointsKind() Kind {
	return Kind{
		Resource:            Served("", "endpoints"),
		New:                 func() objects.Object { return &v1.Endpoints{} },
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Default: typed(func(e *v1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					setDefault(&e.Subsets[i].Ports[j].Protocol, v1.ProtocolTCP)
				}
			}
		}),
		Validate: typedResult(validateEndpoints),
	}
}

func validateEndpoints(e *v1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, subset := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range subset.Addresses {
			errs = append(errs, validateEndpointAddress(a.IP, at.Child("addresses").Index(j).Child("ip"))...)
		}
		for j, a := range subset.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(a.IP, at.Child("notReadyAddresses").Index(j).Child("ip"))...)
		}
		for j, p := range subset.Ports {
			at := at.Child("ports").Index(j)
			errs = append(errs, validatePortName(p.Name, len(subset.Ports) > 1, at.Child("name"))...)
			errs = append(errs, validatePort(p.Port, at.Child("port"))...)
			errs = append(errs, validateProtocol(p.Protocol, at.Child("protocol"))...)
		}
	}
	return errs
}

// validateEndpointAddress refuses addresses through which a client could reach
// what is not meant for it.
func validateEndpointAddress(text string, at *field.Path) field.ErrorList {
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}
	case ip.IsUnspecified():
		return field.ErrorList{field.Invalid(at, text, "may not be unspecified (0.0.0.0 or ::)")}
	case ip.IsLoopback():
		return field.ErrorList{field.Invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case ip.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(at, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}

func endpointSliceKind() Kind {
	return Kind{
		Resource:    Served("discovery.k8s.io", "endpointslices"),
		New:         func() objects.Object { return &discoveryv1.EndpointSlice{} },
		Generations: true,
		Default: typed(func(s *discoveryv1.EndpointSlice) {
			for i := range s.Ports {
				p := &s.Ports[i]
				setDefaultPointer(&p.Name, "")
				setDefaultPointer(&p.Protocol, v1.ProtocolTCP)
			}
		}),
		Validate: typedResult(validateEndpointSlice),
		ValidateUpdate: typed2(func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return validation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))
		}),
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	const mostEndpoints, mostAddresses, mostPorts = 1000, 100, 20000
	var errs field.ErrorList
	at := field.NewPath("addressType")
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	switch s.AddressType {
	case "":
		errs = append(errs, field.Required(at, ""))
	case types[0], types[1], types[2]:
	default:
		errs = append(errs, field.NotSupported(at, s.AddressType, types))
	}
	at = field.NewPath("endpoints")
	if len(s.Endpoints) > mostEndpoints {
		return append(errs, field.TooMany(at, len(s.Endpoints), mostEndpoints))
	}
	for i, e := range s.Endpoints {
		at := at.Index(i).Child("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			errs = append(errs, field.Required(at, "must contain at least 1 address"))
		case n > mostAddresses:
			errs = append(errs, field.TooMany(at, n, mostAddresses))
			continue
		}
		for j, a := range e.Addresses {
			if s.AddressType == discoveryv1.AddressTypeFQDN {
				for _, problem := range validation.NameIsDNSSubdomain(a, false) {
					errs = append(errs, field.Invalid(at.Index(j), a, problem))
				}
				continue
			}
			errs = append(errs, validateEndpointAddress(a, at.Index(j))...)
		}
	}
	at = field.NewPath("ports")
	if len(s.Ports) > mostPorts {
		return append(errs, field.TooMany(at, len(s.Ports), mostPorts))
	}
	names := map[string]bool{}
	for i, p := range s.Ports {
		if names[*p.Name] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("name"), *p.Name))
		}
		names[*p.Name] = true
		errs = append(errs, validatePortName(*p.Name, false, at.Index(i).Child("name"))...)
		errs = append(errs, validateProtocol(*p.Protocol, at.Index(i).Child("protocol"))...)
	}
	return errs
}

func setDefaultPointer[T any](to **T, value T) {
	if *to == nil {
		*to = &value
	}
}
