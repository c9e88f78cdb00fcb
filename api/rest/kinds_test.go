package rest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"podd/api/discovery"
)

// Every kind can be made, found, listed as a Table, watched and deleted.
func TestEveryKindIsServed(t *testing.T) {
	s := newServer(t, nil)
	minimal := map[string]string{
		"services":                        `"spec":{"ports":[{"port":80}]}`,
		"runtimeclasses.node.k8s.io":      `"handler":"runc"`,
		"endpointslices.discovery.k8s.io": `"addressType":"IPv4","endpoints":[]`,
		"persistentvolumes":               `"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}}`,
		"persistentvolumeclaims":          `"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}`,
		"events":                          `"involvedObject":{"namespace":"default","name":"x"}`,
		"events.events.k8s.io":            `"regarding":{"namespace":"default","name":"x"},"eventTime":"2026-01-01T00:00:00.000000Z","reportingController":"a","reportingInstance":"b","action":"c","reason":"d","type":"Normal"`,
	}
	for _, k := range s.Kinds {
		r := k.Resource
		path := "/api/v1"
		if r.Group != "" {
			path = "/apis/" + r.Group + "/" + r.Version
		}
		if r.Namespaced {
			path += "/namespaces/default"
		}
		path += "/" + r.Plural
		name := "x-" + strings.ReplaceAll(r.Group, ".", "-") + r.Singular
		body := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q}`, r.GroupVersion(), r.Kind, name)
		if extra := minimal[r.GroupResource().String()]; extra != "" {
			body += "," + extra
		}
		body += "}"
		made := do(t, s, "POST", path+"?fieldValidation=Strict", body)
		made.want(t, 201, "kind", r.Kind, "apiVersion", r.GroupVersion().String(), "metadata.name", name)
		generation := "-"
		if k.Generations {
			generation = "1"
		}
		do(t, s, "GET", path+"/"+name, nil).want(t, 200, "metadata.generation", generation, "metadata.resourceVersion", made.at("metadata.resourceVersion"))
		do(t, s, "PUT", path+"/"+name, string(made.body)).want(t, 200, "metadata.resourceVersion", made.at("metadata.resourceVersion"))
		do(t, s, "GET", path+"?fieldSelector=metadata.name%3D"+name, nil, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").want(t, 200, "rows.0.object.metadata.name", name)
		if got := do(t, s, "GET", path+"/"+name, nil, "Accept", mediaProtobuf); got.header.Get("Content-Type") != mediaProtobuf || !strings.HasPrefix(string(got.body), "k8s\x00") {
			t.Errorf("%s: no protobuf: %q", r.Plural, got.body)
		}
		do(t, s, "DELETE", path+"/"+name, nil).want(t, 200)
	}
	for _, r := range discovery.Served { // whatever discovery promises of what is only stored
		k := s.stored(r.GroupResource())
		if k == nil {
			continue
		}
		for _, sub := range r.Subresources {
			if served, _ := k.subresource(sub.Name); served == nil && sub.Name != "proxy" {
				t.Errorf("%s/%s is not served", r.Plural, sub.Name)
			}
		}
	}
}

// What is refused, and in which words; the values in the paths are Kubernetes' own.
func TestRulesOfKinds(t *testing.T) {
	s := newServer(t, nil)
	core := "/api/v1/namespaces/default/"
	for _, c := range []struct{ path, body, problem string }{
		{core + "configmaps", `{"metadata":{"name":"x"},"data":{"":"a"}}`, `ConfigMap "x" is invalid: data[]: Invalid value: "": a valid config key must consist of alphanumeric characters`},
		{core + "configmaps", `{"metadata":{"name":"x"},"data":{"..":"a"}}`, `data[..]: Invalid value: "..": must not be '..'`},
		{core + "configmaps", `{"metadata":{"name":"x"},"data":{"a":"1"},"binaryData":{"a":"MQ=="}}`, `data[a]: Invalid value: "a": duplicate of key present in binaryData`},
		{core + "configmaps", `{"metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 1<<20+1) + `"}}`, `may not be more than 1048576 bytes`},
		{core + "configmaps", `{"metadata":{"name":"X"}}`, `metadata.name: Invalid value: "X": a lowercase RFC 1123 subdomain must consist of`},
		{core + "configmaps", `{"metadata":{"name":"x","labels":{"a b":"c"}}}`, `metadata.labels: Invalid value: "a b"`},
		{core + "configmaps", `{"metadata":{}}`, `metadata.name: Required value: name or generateName is required`},
		{core + "secrets", `{"metadata":{"name":"x"},"type":"kubernetes.io/tls"}`, `data[tls.crt]: Required value`},
		{core + "secrets", `{"metadata":{"name":"x"},"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"{"}}`, `data[.dockerconfigjson]: Invalid value: "<secret contents redacted>"`},
		{core + "secrets", `{"metadata":{"name":"x"},"type":"kubernetes.io/basic-auth"}`, `data[username]: Required value`},
		{core + "secrets", `{"metadata":{"name":"x"},"type":"kubernetes.io/ssh-auth"}`, `data[ssh-privatekey]: Required value`},
		{core + "secrets", `{"metadata":{"name":"x"},"type":"kubernetes.io/service-account-token"}`, `metadata.annotations[kubernetes.io/service-account.name]: Required value`},
		{core + "secrets", `{"metadata":{"name":"x"},"stringData":{"a/b":""}}`, `data[a/b]: Invalid value: "a/b"`},
		{core + "services", `{"metadata":{"name":"1x"},"spec":{"ports":[{"port":1}]}}`, `metadata.name: Invalid value: "1x": a DNS-1035 label`},
		{core + "services", `{"metadata":{"name":"x"}}`, `spec.ports: Required value`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"ports":[{"port":0}]}}`, `spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"ports":[{"port":1},{"port":2}]}}`, `spec.ports[0].name: Required value`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"ports":[{"name":"a","port":1},{"name":"b","port":1}]}}`, `spec.ports[1]: Duplicate value`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"ports":[{"port":1,"protocol":"X"}]}}`, `spec.ports[0].protocol: Unsupported value: "X"`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"ports":[{"port":1,"nodePort":30000}]}}`, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"type":"NodePort","ports":[{"port":1,"nodePort":80}]}}`, `The range of valid ports is 30000-32767`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"type":"Odd","ports":[{"port":1}]}}`, `spec.type: Unsupported value: "Odd"`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"type":"ExternalName"}}`, `spec.externalName: Required value`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"clusterIP":"1.2.3.4","ports":[{"port":1}]}}`, `the provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is 10.96.0.0/16`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"clusterIP":"nowhere","ports":[{"port":1}]}}`, `spec.clusterIPs[0]: Invalid value: "nowhere": must be a valid IP address`},
		{core + "endpoints", `{"metadata":{"name":"x"},"subsets":[{"addresses":[{"ip":"127.0.0.1"}]}]}`, `subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range`},
		{core + "endpoints", `{"metadata":{"name":"x"},"subsets":[{}]}`, "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"},
		{"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"x"},"endpoints":[]}`, `addressType: Required value`},
		{"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"x"},"addressType":"IPv4","endpoints":[{"addresses":["169.254.0.1"]}]}`, `endpoints[0].addresses[0]: Invalid value: "169.254.0.1": may not be in the link-local range`},
		{core + "events", `{"metadata":{"name":"x"},"involvedObject":{"namespace":"other"}}`, `involvedObject.namespace: Invalid value: "other": does not match event.namespace`},
		{"/apis/events.k8s.io/v1/namespaces/default/events", `{"metadata":{"name":"x"},"eventTime":"2026-01-01T00:00:00.000000Z","type":"Loud"}`, `type: Invalid value: "": has invalid value: Loud`},
		{"/apis/coordination.k8s.io/v1/namespaces/default/leases", `{"metadata":{"name":"x"},"spec":{"leaseDurationSeconds":0}}`, `spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0`},
		{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"x"}}`, `handler: Invalid value: ""`},
		{"/api/v1/namespaces", `{"metadata":{"name":"a.b"}}`, `metadata.name: Invalid value: "a.b"`},
		{"/api/v1/namespaces", `{"metadata":{"name":"a"},"spec":{"finalizers":["odd"]}}`, `spec.finalizers[0]: Invalid value: "odd": name is neither a standard finalizer name nor is it fully qualified`},
		{"/api/v1/nodes", `{"metadata":{"name":"a"},"spec":{"taints":[{"key":"a","effect":"Maybe"}]}}`, `spec.taints[0].effect: Unsupported value: "Maybe"`},
		{"/api/v1/nodes", `{"metadata":{"name":"a"},"spec":{"taints":[{"key":"a","effect":"NoSchedule"},{"key":"a","effect":"NoSchedule"}]}}`, `spec.taints[1]: Duplicate value`},
		{"/api/v1/persistentvolumes", `{"metadata":{"name":"a"},"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"1"}}}`, `spec: Required value: must specify a volume type`},
		{"/api/v1/persistentvolumes", `{"metadata":{"name":"a"},"spec":{"hostPath":{"path":"/"}}}`, `spec.accessModes: Required value`},
		{core + "persistentvolumeclaims", `{"metadata":{"name":"a"},"spec":{"accessModes":["Often"],"resources":{"requests":{"storage":"0"}}}}`, `spec.accessModes: Unsupported value: "Often"`},
		{core + "persistentvolumeclaims", `{"metadata":{"name":"a"},"spec":{"accessModes":["ReadWriteOnce"]}}`, `spec.resources[storage]: Required value`},
	} {
		r := do(t, s, "POST", c.path, c.body)
		r.wantStatus(t, 422, "Invalid", c.problem)
		if r.at("details.causes.0.field") == "-" || r.at("details.causes.0.reason") == "-" {
			t.Errorf("%s: no cause: %s", c.body, r.body)
		}
	}
}

func TestRulesOfChanges(t *testing.T) {
	s := newServer(t, nil)
	core := "/api/v1/namespaces/default/"
	for _, c := range []struct{ path, from, to, problem string }{
		{core + "configmaps", `{"metadata":{"name":"x"},"immutable":true,"data":{"a":"1"}}`, `{"metadata":{"name":"x"},"immutable":true,"data":{"a":"2"}}`, "data: Forbidden: field is immutable when `immutable` is set"},
		{core + "configmaps", `{"metadata":{"name":"y"},"immutable":true}`, `{"metadata":{"name":"y"}}`, "immutable: Forbidden: field is immutable when `immutable` is set"},
		{core + "configmaps", `{"metadata":{"name":"z"},"immutable":true,"data":{"a":"1"}}`, `{"metadata":{"name":"z","labels":{"a":"b"}},"immutable":true,"data":{"a":"1"}}`, ""},
		{core + "secrets", `{"metadata":{"name":"x"},"immutable":true,"data":{"a":"MQ=="}}`, `{"metadata":{"name":"x"},"immutable":true,"stringData":{"a":"2"}}`, "data: Forbidden: field is immutable when `immutable` is set"},
		{core + "secrets", `{"metadata":{"name":"y"},"type":"a"}`, `{"metadata":{"name":"y"},"type":"b"}`, `type: Invalid value: "b": field is immutable`},
		{core + "services", `{"metadata":{"name":"x"},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":1}]}}`, `{"metadata":{"name":"x"},"spec":{"clusterIP":"10.96.0.10","ports":[{"port":1}]}}`, `spec.clusterIP: Invalid value: "10.96.0.10": field is immutable`},
		{core + "persistentvolumeclaims", `{"metadata":{"name":"x"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"2Gi"}}}}`,
			`{"metadata":{"name":"x"},"spec":{"accessModes":["ReadWriteMany"],"resources":{"requests":{"storage":"2Gi"}}}}`, "spec: Forbidden: spec is immutable after creation except resources.requests"},
		{core + "persistentvolumeclaims", `{"metadata":{"name":"y"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"2Gi"}}}}`,
			`{"metadata":{"name":"y"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`, "spec.resources.requests.storage: Forbidden: field can not be less than"},
		{core + "persistentvolumeclaims", `{"metadata":{"name":"z"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"2Gi"}}}}`,
			`{"metadata":{"name":"z"},"spec":{"accessModes":["ReadWriteOnce"],"volumeName":"v","resources":{"requests":{"storage":"3Gi"}}}}`, ""},
		{"/api/v1/persistentvolumes", `{"metadata":{"name":"x"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}}}`,
			`{"metadata":{"name":"x"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/y"}}}`, "spec.persistentvolumesource is immutable after creation"},
		{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"x"},"handler":"a"}`, `{"metadata":{"name":"x"},"handler":"b"}`, `handler: Invalid value: "b": field is immutable`},
		{"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"x"},"addressType":"IPv4","endpoints":[]}`, `{"metadata":{"name":"x"},"addressType":"IPv6","endpoints":[]}`, `addressType: Invalid value: "IPv6": field is immutable`},
		{"/api/v1/nodes", `{"metadata":{"name":"x"},"spec":{"providerID":"a"}}`, `{"metadata":{"name":"x"},"spec":{"providerID":"b"}}`, `spec.providerID: Invalid value: "b": field is immutable`},
		{"/api/v1/nodes", `{"metadata":{"name":"y"}}`, `{"metadata":{"name":"y","labels":{"a":"b"}},"spec":{"unschedulable":true,"taints":[{"key":"a","effect":"NoSchedule"}]}}`, ""},
	} {
		made := do(t, s, "POST", c.path, c.from).want(t, 201)
		to := strings.Replace(c.to, `"metadata":{`, `"metadata":{"resourceVersion":"`+made.at("metadata.resourceVersion")+`",`, 1)
		r := do(t, s, "PUT", c.path+"/"+made.at("metadata.name"), to)
		if c.problem == "" {
			r.want(t, 200)
		} else {
			r.wantStatus(t, 422, "Invalid", c.problem)
		}
	}
}

func TestDefaultsOfKinds(t *testing.T) {
	s := newServer(t, nil)
	core := "/api/v1/namespaces/default/"
	for _, c := range []struct {
		path, body string
		want       []string
	}{
		{core + "services", `{"metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}`, []string{"spec.type", "ClusterIP", "spec.sessionAffinity", "None",
			"spec.ports.0.protocol", "TCP", "spec.ports.0.targetPort", "80", "spec.internalTrafficPolicy", "Cluster", "spec.ipFamilies", `["IPv4"]`, "spec.ipFamilyPolicy", "SingleStack", "status.loadBalancer", "{}"}},
		{core + "services", `{"metadata":{"name":"b"},"spec":{"clusterIP":"None","selector":{"a":"b"}}}`, []string{"spec.clusterIP", "None", "spec.clusterIPs", `["None"]`}},
		{core + "services", `{"metadata":{"name":"c"},"spec":{"type":"ExternalName","externalName":"example.com"}}`, []string{"spec.clusterIP", "-", "spec.internalTrafficPolicy", "-"}},
		{core + "services", `{"metadata":{"name":"d"},"spec":{"type":"NodePort","sessionAffinity":"ClientIP","ports":[{"port":80}]}}`, []string{"spec.externalTrafficPolicy", "Cluster", "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "10800"}},
		{core + "endpoints", `{"metadata":{"name":"a"},"subsets":[{"addresses":[{"ip":"10.0.0.1"}],"ports":[{"port":80}]}]}`, []string{"subsets.0.ports.0.protocol", "TCP"}},
		{"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[],"ports":[{"port":80}]}`, []string{"ports.0.protocol", "TCP", "ports.0.name", ""}},
		{"/api/v1/persistentvolumes", `{"metadata":{"name":"a"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}},"status":{"phase":"Bound"}}`,
			[]string{"spec.persistentVolumeReclaimPolicy", "Retain", "spec.volumeMode", "Filesystem", "spec.hostPath.type", "", "status.phase", "Pending"}},
		{core + "persistentvolumeclaims", `{"metadata":{"name":"a"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`, []string{"spec.volumeMode", "Filesystem", "status.phase", "Pending"}},
		{"/api/v1/namespaces", `{"metadata":{"name":"a"},"status":{"phase":"Terminating"}}`, []string{"status.phase", "Active", "spec.finalizers", `["kubernetes"]`, "metadata.labels.kubernetes~io/metadata~name", "a"}},
		{"/api/v1/nodes", `{"metadata":{"name":"a"},"status":{"capacity":{"cpu":"2"}}}`, []string{"status.allocatable.cpu", "2"}},
	} {
		do(t, s, "POST", c.path, c.body).want(t, 201, c.want...)
	}
}

// What is accepted without effect is said.
func TestWhatHasNoEffectIsWarnedOf(t *testing.T) {
	s := newServer(t, nil)
	warned := func(method, path, body string) string {
		t.Helper()
		r := do(t, s, method, path, body)
		if r.code >= 300 {
			t.Fatalf("%d %s", r.code, r.body)
		}
		return strings.Join(r.header.Values("Warning"), "\n")
	}
	const services, nodes = "/api/v1/namespaces/default/services", "/api/v1/nodes"
	service := `{"metadata":{"name":"a","labels":{"a":"%s"}},"spec":{"ports":[{"port":80}]}}`
	node := `{"metadata":{"name":"a","labels":{"a":"%s"}},"spec":{"taints":[{"key":"a","effect":"NoSchedule"},{"key":"b","effect":"NoExecute"}]}}`
	if got := warned("POST", services, fmt.Sprintf(service, "1")); !strings.Contains(got, "no traffic reaches a Service") {
		t.Errorf("a new Service: %q", got)
	}
	if got := warned("POST", nodes, fmt.Sprintf(node, "1")); got != `299 - "spec.taints[1].effect: NoExecute keeps new pods away and evicts none"` {
		t.Errorf("a new taint: %q", got)
	}
	for path, body := range map[string]string{services + "/a": service, nodes + "/a": node} {
		if got := warned("PUT", path, fmt.Sprintf(body, "2")); got != "" {
			t.Errorf("%s, which was warned of: %q", path, got)
		}
	}
}

func TestAddressesOfServices(t *testing.T) {
	s := newServer(t, nil)
	if err := s.EnsureKubernetesService(6443); err != nil {
		t.Fatal(err)
	}
	path := "/api/v1/namespaces/default/services"
	do(t, s, "GET", path+"/kubernetes", nil).want(t, 200, "spec.clusterIP", "10.96.0.1", "spec.ports.0.port", "443", "spec.ports.0.targetPort", "6443", "metadata.labels.component", "apiserver")
	if err := s.EnsureKubernetesService(6443); err != nil {
		t.Fatal(err)
	}
	do(t, s, "POST", path, `{"metadata":{"name":"taken"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":1}]}}`).
		wantStatus(t, 422, "Invalid", "failed to allocate IP 10.96.0.1: provided IP is already allocated")
	seen := map[string]bool{}
	for i := range 20 {
		made := do(t, s, "POST", path, fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`, i)).want(t, 201)
		for _, value := range []string{made.at("spec.clusterIP"), made.at("spec.ports.0.nodePort")} {
			if seen[value] || value == "-" || value == "0" {
				t.Errorf("%s is given twice or not at all", value)
			}
			seen[value] = true
		}
		if !strings.HasPrefix(made.at("spec.clusterIP"), "10.96.") {
			t.Errorf("address %s", made.at("spec.clusterIP"))
		}
	}
	s0 := do(t, s, "GET", path+"/s0", nil)
	port := s0.at("spec.ports.0.nodePort")
	do(t, s, "PUT", path+"/s0", `{"metadata":{"name":"s0"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`).want(t, 200,
		"spec.clusterIP", s0.at("spec.clusterIP"), "spec.ports.0.nodePort", port, "metadata.resourceVersion", s0.at("metadata.resourceVersion"))
	do(t, s, "POST", path, `{"metadata":{"name":"again"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":`+port+`}]}}`).
		wantStatus(t, 422, "Invalid", "provided port is already allocated")
	do(t, s, "PUT", path+"/s0", strings.Replace(string(s0.body), `"type":"NodePort"`, `"type":"ClusterIP"`, 1)).want(t, 200, "spec.ports.0.nodePort", "-", "spec.externalTrafficPolicy", "-")
	do(t, s, "PUT", path+"/s1", `{"metadata":{"name":"s1"},"spec":{"type":"ExternalName","externalName":"example.com"}}`).want(t, 200, "spec.clusterIP", "-")
}

func TestASmallRangeOfAddressesRunsOut(t *testing.T) {
	s := newServer(t, nil)
	s.stored(serviceResource).Serial.(*serviceAddresses).within = netip.MustParsePrefix("10.0.0.0/29")
	path := "/api/v1/namespaces/default/services"
	got := map[string]bool{}
	for i := range 5 { // .2 to .6
		got[do(t, s, "POST", path, fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"ports":[{"port":80}]}}`, i)).want(t, 201).at("spec.clusterIP")] = true
	}
	if len(got) != 5 || !got["10.0.0.2"] || !got["10.0.0.6"] {
		t.Errorf("given: %v", got)
	}
	do(t, s, "POST", path, `{"metadata":{"name":"more"},"spec":{"ports":[{"port":80}]}}`).wantStatus(t, 500, "InternalError", "no address of 10.0.0.0/29 is free")
}

// Generations count changes of the spec alone.
func TestGenerations(t *testing.T) {
	s := newServer(t, nil)
	path := "/api/v1/namespaces/default/podtemplates"
	template := `{"metadata":{"name":"x"%s},"template":{"spec":{"containers":[{"name":"a","image":"%s"}]}}}`
	do(t, s, "POST", path, fmt.Sprintf(template, "", "one")).want(t, 201, "metadata.generation", "1")
	do(t, s, "PUT", path+"/x", fmt.Sprintf(template, `,"labels":{"a":"b"},"generation":9`, "one")).want(t, 200, "metadata.generation", "1")
	do(t, s, "PUT", path+"/x", fmt.Sprintf(template, "", "two")).want(t, 200, "metadata.generation", "2")
}

func TestEventsHaveTwoShapes(t *testing.T) {
	s := newServer(t, nil)
	old, view := "/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events"
	w := startWatch(t, listen(t, s)+view+"?watch=1&fieldSelector=regarding.name%3Dweb")
	do(t, s, "POST", old, `{"metadata":{"name":"a"},"involvedObject":{"kind":"Pod","namespace":"default","name":"web","uid":"u"},"reason":"Started","message":"hello","type":"Normal","count":2,"source":{"component":"podd"},"firstTimestamp":"2026-01-01T00:00:00Z"}`).want(t, 201)
	w.want("ADDED a kind=Event apiVersion=events.k8s.io/v1 note=hello regarding.name=web reason=Started deprecatedCount=2 deprecatedSource.component=podd")
	made := do(t, s, "POST", view, `{"metadata":{"name":"b"},"regarding":{"namespace":"default","name":"web"},"note":"new","eventTime":"2026-01-01T00:00:00.000001Z","reportingController":"c","reportingInstance":"i","action":"Act","reason":"R","type":"Warning","series":{"count":3,"lastObservedTime":"2026-01-01T00:00:00.000002Z"}}`).want(t, 201, "kind", "Event", "apiVersion", "events.k8s.io/v1", "note", "new")
	do(t, s, "GET", old+"/b", nil).want(t, 200, "apiVersion", "v1", "message", "new", "involvedObject.name", "web", "series.count", "3", "metadata.uid", made.at("metadata.uid"))
	do(t, s, "PATCH", view+"/b", `{"series":{"count":4}}`, "Content-Type", "application/merge-patch+json").want(t, 200, "series.count", "4")
	do(t, s, "GET", old+"?fieldSelector=involvedObject.uid%3Du,involvedObject.kind%3DPod", nil).want(t, 200, "items.0.metadata.name", "a", "items.1", "-")
	do(t, s, "GET", old+"?fieldSelector=reason%3DR", nil).want(t, 200, "items.0.series.count", "4")
	do(t, s, "GET", view+"?fieldSelector=type%3DWarning", nil).want(t, 200, "items.0.metadata.name", "b")
	do(t, s, "DELETE", view, nil).want(t, 200, "items.1.metadata.name", "b")
	do(t, s, "GET", old, nil).want(t, 200, "items", "[]")
}
