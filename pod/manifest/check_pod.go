package manifest

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The rules are those by which an API server accepts a new Pod, for the fields
// that are honoured here. They run on a defaulted pod, also after decoding found
// mistakes, so that the author sees all of them at once.

const (
	aLabel     = "lower-case letters, digits and '-', at most 63, with a letter or digit at both ends"
	aSubdomain = "lower-case letters, digits, '-' and '.', at most 253, with a letter or digit at both ends of each part"
	aKey       = "a name of letters, digits, '-', '_' and '.', at most 63, with an optional domain/ before it"
	aPort      = "a port from 1 to 65535"
)

// bad reports the value at path, unless something was already said about it.
func (o *object) bad(path, want string) {
	if o.isFailed(path) {
		return
	}
	p, given := o.places[path]
	if !given || kindOf(p.value) == nothing {
		o.problemAt(path, "required, not given")
		return
	}
	o.problemAt(path, "expected "+want+"; found "+found(p.value))
}

// say reports a problem at path in words of its own.
func (o *object) say(path, format string, args ...any) {
	if !o.isFailed(path) {
		o.problemAt(path, fmt.Sprintf(format, args...))
	}
}

// oneOf reports a value that is none of a field's values.
func (o *object) oneOf(path, value string, allowed ...string) {
	if slices.Contains(allowed, value) || o.isFailed(path) {
		return
	}
	shown := slices.Clone(allowed)
	for i := range shown {
		if shown[i] == "" {
			shown[i] = `""`
		}
	}
	want := shown[len(shown)-1]
	if len(shown) > 1 {
		want = strings.Join(shown[:len(shown)-1], ", ") + " or " + want
	}
	o.bad(path, want)
}

// image checks the name of an image as far as an API server does.
func (o *object) image(path, name string) {
	if name == "" || strings.TrimSpace(name) != name {
		o.bad(path, "the name of an image, without blanks around it")
	}
}

func (o *object) label(path, value string) {
	if len(validation.IsDNS1123Label(value)) > 0 {
		o.bad(path, aLabel)
	}
}

// knownUnder says that a problem was told about something below path.
func (o *object) knownUnder(path string) bool {
	for failed := range o.failed {
		if strings.HasPrefix(failed, path+".") {
			return true
		}
	}
	return o.isFailed(path)
}

// serverDefaults are the values that an API server writes into every pod. They
// are worth no warning.
var serverDefaults = map[string]string{
	"spec.schedulerName":      v1.DefaultSchedulerName,
	"spec.preemptionPolicy":   string(v1.PreemptLowerPriority),
	"spec.priority":           "0",
	"spec.serviceAccountName": "default",
	"spec.serviceAccount":     "default",
}

func isServerDefault(path string, value *yaml.Node) bool {
	if path == "spec.tolerations" {
		for _, t := range sequence(value) {
			key := member(resolved(t), "key")
			if key == nil || key.Value != "node.kubernetes.io/not-ready" && key.Value != "node.kubernetes.io/unreachable" {
				return false
			}
		}
		return true
	}
	usual, ok := serverDefaults[path]
	return ok && value.Kind == yaml.ScalarNode && value.Value == usual
}

// maxAnnotations is how many bytes a pod's annotations may have, with their keys.
const maxAnnotations = 256 << 10

// deadAnnotations begin annotations that a cluster acts on and nobody here does.
var deadAnnotations = []string{
	"container.apparmor.security.beta.kubernetes.io/",
	"container.seccomp.security.alpha.kubernetes.io/",
	"seccomp.security.alpha.kubernetes.io/pod",
	"kubernetes.io/ingress-bandwidth",
	"kubernetes.io/egress-bandwidth",
}

// check reports every mistake of a defaulted pod.
func (o *object) check(p *v1.Pod) {
	o.checkMeta(&p.ObjectMeta)
	s := &p.Spec
	o.checkPodSecurity(s)
	o.checkNames(s)
	o.checkGates(p)
	o.oneOf("spec.restartPolicy", string(s.RestartPolicy), "Always", "OnFailure", "Never")
	if seconds := s.ActiveDeadlineSeconds; seconds != nil && (*seconds < 1 || *seconds > math.MaxInt32) {
		o.bad("spec.activeDeadlineSeconds", "whole seconds, from 1 to 2147483647")
	}
	if s.OS != nil {
		if s.OS.Name == v1.Windows {
			o.say("spec.os.name", "windows is not supported here")
		} else {
			o.oneOf("spec.os.name", string(s.OS.Name), "linux")
		}
	}
	if s.HostUsers != nil && !*s.HostUsers {
		o.say("spec.hostUsers", "false is not supported here: there are no user namespaces yet")
	}
	for i, ref := range s.ImagePullSecrets {
		o.sourceName(item("spec.imagePullSecrets", i)+".name", ref.Name)
	}
	volumes := o.checkVolumes(s)
	if len(s.Containers) == 0 {
		if at, given := o.places["spec.containers"]; given && kindOf(at.value) != nothing {
			o.say("spec.containers", "expected at least one container; found none")
		} else {
			o.bad("spec.containers", "")
		}
	}
	named := map[string]string{}
	hostPorts := map[string]string{}
	for i := range s.InitContainers {
		at := item("spec.initContainers", i)
		c := &s.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		for name, probe := range probesOf(c) {
			if probe != nil && !sidecar && !o.isFailed(at+".restartPolicy") {
				o.say(at+"."+name, "not for init containers without restartPolicy: Always")
			}
		}
		if c.Lifecycle != nil && !sidecar && !o.isFailed(at+".restartPolicy") {
			o.say(at+".lifecycle", "not for init containers without restartPolicy: Always")
		}
		o.checkContainer(at, c, s, named, volumes, map[string]string{})
	}
	for i := range s.Containers {
		o.checkContainer(item("spec.containers", i), &s.Containers[i], s, named, volumes, hostPorts)
	}
	for i := range s.EphemeralContainers {
		c := (*v1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon)
		o.checkContainer(item("spec.ephemeralContainers", i), c, s, named, volumes, hostPorts)
	}
}

func (o *object) checkMeta(p *metav1.ObjectMeta) {
	switch {
	case p.Name == "" && o.generatesName():
		o.say("metadata.name", "required, not given; generateName is not honoured here")
	case len(validation.IsDNS1123Subdomain(p.Name)) > 0:
		o.bad("metadata.name", aSubdomain)
	}
	o.label("metadata.namespace", p.Namespace)
	for _, key := range sortedKeys(p.Labels) {
		at := keyed("metadata.labels", key)
		if len(validation.IsQualifiedName(key)) > 0 {
			o.say(at, "expected as label key %s; found %s", aKey, quoted(key))
		}
		if len(validation.IsValidLabelValue(p.Labels[key])) > 0 {
			o.bad(at, "letters, digits, '-', '_' and '.', at most 63, with a letter or digit at both ends")
		}
	}
	size := 0
	for _, key := range sortedKeys(p.Annotations) {
		at := keyed("metadata.annotations", key)
		size += len(key) + len(p.Annotations[key])
		if len(validation.IsQualifiedName(strings.ToLower(key))) > 0 {
			o.say(at, "expected as annotation key %s; found %s", aKey, quoted(key))
		}
		for _, dead := range deadAnnotations {
			if strings.HasPrefix(key, dead) {
				o.warnAt(at, "accepted without effect: this annotation is not read here")
			}
		}
	}
	if size > maxAnnotations {
		o.say("metadata.annotations", "expected at most %d bytes in all; found %d", maxAnnotations, size)
	}
}

// generatesName says that the manifest has a generateName.
func (o *object) generatesName() bool {
	return member(o.places[""].value, "metadata") != nil &&
		member(member(o.places[""].value, "metadata"), "generateName") != nil
}

func sortedKeys[V any, K ~string](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// checkNames is about the pod's names on the network.
func (o *object) checkNames(s *v1.PodSpec) {
	if s.Hostname != "" {
		o.label("spec.hostname", s.Hostname)
	}
	if s.Subdomain != "" {
		o.label("spec.subdomain", s.Subdomain)
	}
	if name := s.HostnameOverride; name != nil {
		const at = "spec.hostnameOverride"
		switch {
		case len(validation.IsDNS1123Subdomain(*name)) > 0 || len(*name) > 64:
			o.bad(at, "lower-case letters, digits, '-' and '.', at most 64, with a letter or digit at both ends of each part")
		case s.HostNetwork:
			o.say(at, "not together with hostNetwork")
		case s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN:
			o.say(at, "not together with setHostnameAsFQDN")
		}
	}
	for i, alias := range s.HostAliases {
		at := item("spec.hostAliases", i)
		o.address(at+".ip", alias.IP)
		for j, name := range alias.Hostnames {
			if len(validation.IsDNS1123Subdomain(name)) > 0 {
				o.bad(item(at+".hostnames", j), aSubdomain)
			}
		}
	}
	o.oneOf("spec.dnsPolicy", string(s.DNSPolicy), "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
	dns := s.DNSConfig
	if s.DNSPolicy == v1.DNSNone && (dns == nil || len(dns.Nameservers) == 0) {
		o.say("spec.dnsConfig.nameservers", "required with dnsPolicy None, not given")
	}
	if dns == nil {
		return
	}
	const nameservers, searches, searchBytes = 3, 32, 2048
	if len(dns.Nameservers) > nameservers {
		o.say("spec.dnsConfig.nameservers", "expected at most %d; found %d", nameservers, len(dns.Nameservers))
	}
	for i, ip := range dns.Nameservers {
		o.address(item("spec.dnsConfig.nameservers", i), ip)
	}
	if len(dns.Searches) > searches {
		o.say("spec.dnsConfig.searches", "expected at most %d; found %d", searches, len(dns.Searches))
	}
	if n := len(strings.Join(dns.Searches, " ")); n > searchBytes {
		o.say("spec.dnsConfig.searches", "expected at most %d characters in all; found %d", searchBytes, n)
	}
	for i, search := range dns.Searches {
		if search != "." && len(validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(search, "."))) > 0 {
			o.bad(item("spec.dnsConfig.searches", i), "a domain name")
		}
	}
	for i, option := range dns.Options {
		if option.Name == "" {
			o.bad(item("spec.dnsConfig.options", i)+".name", "the name of a resolver option")
		}
	}
}

// address checks an IP address without a zone.
func (o *object) address(path, value string) {
	if ip, err := netip.ParseAddr(value); err != nil || ip.Zone() != "" {
		o.bad(path, "an IP address")
	}
}

// sysctlName is the form of a sysctl's name, with dots or slashes.
// Source: API reference of Sysctl v1.
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (o *object) checkPodSecurity(s *v1.PodSpec) {
	const at = "spec.securityContext"
	sc := s.SecurityContext
	if s.HostPID && s.ShareProcessNamespace != nil && *s.ShareProcessNamespace {
		o.say("spec.shareProcessNamespace", "expected false with hostPID; found true")
	}
	o.id(at+".runAsUser", sc.RunAsUser)
	o.id(at+".runAsGroup", sc.RunAsGroup)
	o.id(at+".fsGroup", sc.FSGroup)
	for i := range sc.SupplementalGroups {
		o.id(item(at+".supplementalGroups", i), &sc.SupplementalGroups[i])
	}
	if sc.FSGroupChangePolicy != nil {
		o.oneOf(at+".fsGroupChangePolicy", string(*sc.FSGroupChangePolicy), "Always", "OnRootMismatch")
	}
	if sc.SupplementalGroupsPolicy != nil {
		o.oneOf(at+".supplementalGroupsPolicy", string(*sc.SupplementalGroupsPolicy), "Merge", "Strict")
	}
	o.checkSeccomp(at+".seccompProfile", sc.SeccompProfile)
	first := map[string]string{}
	for i, sysctl := range sc.Sysctls {
		at := item(at+".sysctls", i)
		name := strings.ReplaceAll(sysctl.Name, "/", ".")
		network := strings.HasPrefix(name, "net.")
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
			name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		switch {
		case len(sysctl.Name) > 253 || !sysctlName.MatchString(sysctl.Name):
			o.bad(at+".name", "the name of a sysctl, such as net.ipv4.ip_local_port_range")
		case !network && !ipc:
			o.bad(at+".name", "a sysctl that a pod has for itself: kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* or net.*")
		case network && s.HostNetwork:
			o.say(at+".name", "%s would change the host: the pod has hostNetwork", sysctl.Name)
		case ipc && s.HostIPC:
			o.say(at+".name", "%s would change the host: the pod has hostIPC", sysctl.Name)
		}
		o.unique(first, name, at+".name")
	}
}

// unique reports the second path that has the same value.
func (o *object) unique(first map[string]string, value, path string) {
	if value == "" {
		return
	}
	if before, given := first[value]; given {
		o.say(path, "%s is given twice; first at %s", quoted(value), o.prefix+before)
		return
	}
	first[value] = path
}

// id checks a user or group number.
func (o *object) id(path string, id *int64) {
	if id != nil && (*id < 0 || *id > math.MaxInt32) {
		o.bad(path, "a number from 0 to 2147483647")
	}
}

func (o *object) checkSeccomp(at string, p *v1.SeccompProfile) {
	if p == nil {
		return
	}
	o.oneOf(at+".type", string(p.Type), "Localhost", "RuntimeDefault", "Unconfined")
	switch {
	case p.Type != v1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		o.say(at+".localhostProfile", "only with type: Localhost")
	case p.Type == v1.SeccompProfileTypeLocalhost && (p.LocalhostProfile == nil || *p.LocalhostProfile == ""):
		o.bad(at+".localhostProfile", "a relative path")
	case p.Type == v1.SeccompProfileTypeLocalhost:
		o.relative(at+".localhostProfile", *p.LocalhostProfile)
	}
}

// relative checks a path that must stay below where it is used.
func (o *object) relative(at, value string) {
	if strings.HasPrefix(value, "/") || hasDotDot(value) {
		o.bad(at, "a relative path without ..")
	}
}

func hasDotDot(p string) bool { return slices.Contains(strings.Split(p, "/"), "..") }

// checkVolumes returns the names of the pod's volumes.
func (o *object) checkVolumes(spec *v1.PodSpec) map[string]string {
	first := map[string]string{}
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		at := item("spec.volumes", i)
		if o.leftOut[v.Name] {
			o.warnAt(at, "left out with its mounts: "+noAccount)
			first[v.Name] = at + ".name"
			continue
		}
		o.label(at+".name", v.Name)
		o.unique(first, v.Name, at+".name")
		if kinds := kindsOf(v.VolumeSource); len(kinds) > 1 {
			o.say(at, "expected one kind of volume; found %s", strings.Join(kinds, " and "))
		}
		o.checkFiles(at, v, spec)
		if h := v.HostPath; h != nil {
			if !path.IsAbs(h.Path) || hasDotDot(h.Path) {
				o.bad(at+".hostPath.path", "an absolute path without ..")
			}
			o.oneOf(at+".hostPath.type", string(*h.Type), "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File",
				"Socket", "CharDevice", "BlockDevice")
		}
		if e := v.Ephemeral; e != nil {
			o.checkEphemeral(at+".ephemeral.volumeClaimTemplate", e.VolumeClaimTemplate)
		}
		if n := v.NFS; n != nil {
			o.checkNFS(at+".nfs", n)
		}
		if c := v.PersistentVolumeClaim; c != nil {
			o.sourceName(at+".persistentVolumeClaim.claimName", c.ClaimName)
		}
		if i := v.Image; i != nil {
			o.image(at+".image.reference", i.Reference)
			o.oneOf(at+".image.pullPolicy", string(i.PullPolicy), "Always", "IfNotPresent", "Never")
		}
		if e := v.EmptyDir; e != nil {
			if strings.HasPrefix(string(e.Medium), string(v1.StorageMediumHugePages)) {
				o.say(at+".emptyDir.medium", "huge pages are not supported here")
			} else {
				o.oneOf(at+".emptyDir.medium", string(e.Medium), "", "Memory")
			}
			if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
				o.bad(at+".emptyDir.sizeLimit", "a size that is not negative")
			}
		}
	}
	return first
}

func (o *object) checkEphemeral(at string, t *v1.PersistentVolumeClaimTemplate) {
	if t == nil {
		o.bad(at, "what a claim has")
		return
	}
	o.checkClaimSpec(at+".spec", &t.Spec)
}

// kindsOf lists the field names of the kinds that are given.
func kindsOf[Source v1.VolumeSource | v1.PersistentVolumeSource](source Source) []string {
	var kinds []string
	value := reflect.ValueOf(source)
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			kinds = append(kinds, name)
		}
	}
	slices.Sort(kinds)
	return kinds
}

func probesOf(c *v1.Container) map[string]*v1.Probe {
	return map[string]*v1.Probe{"startupProbe": c.StartupProbe, "livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe}
}

func (o *object) checkContainer(at string, c *v1.Container, s *v1.PodSpec, named, volumes, hostPorts map[string]string) {
	o.label(at+".name", c.Name)
	o.unique(named, c.Name, at+".name")
	o.image(at+".image", c.Image)
	o.oneOf(at+".imagePullPolicy", string(c.ImagePullPolicy), "Always", "IfNotPresent", "Never")
	o.oneOf(at+".terminationMessagePolicy", string(c.TerminationMessagePolicy), "File", "FallbackToLogsOnError")
	o.checkPorts(at+".ports", c.Ports, s.HostNetwork && strings.HasPrefix(at, "spec.containers"), hostPorts)
	defined := map[string]bool{}
	for i := range c.Env {
		o.checkEnv(item(at+".env", i), &c.Env[i], s)
		name := c.Env[i].Name
		if name != "" && defined[name] && !strings.Contains(c.Env[i].Value, "$("+name+")") { // one that builds on it is meant so
			o.warnAt(item(at+".env", i), fmt.Sprintf("hides previous definition of %q, which may be dropped when using apply", name))
		}
		defined[name] = true
	}
	for i := range c.EnvFrom {
		o.checkEnvFrom(item(at+".envFrom", i), &c.EnvFrom[i])
	}
	o.checkResources(at+".resources", &c.Resources)
	first := map[string]string{}
	for i, r := range c.ResizePolicy {
		at := item(at+".resizePolicy", i)
		o.oneOf(at+".resourceName", string(r.ResourceName), "cpu", "memory")
		o.unique(first, string(r.ResourceName), at+".resourceName")
		if r.RestartPolicy == v1.RestartContainer && s.RestartPolicy == v1.RestartPolicyNever && c.RestartPolicy == nil {
			o.say(at+".restartPolicy", "expected NotRequired, because the pod's restartPolicy is Never; found \"RestartContainer\"")
		} else {
			o.oneOf(at+".restartPolicy", string(r.RestartPolicy), "NotRequired", "RestartContainer")
		}
	}
	o.checkMounts(at+".volumeMounts", c, volumes)
	o.checkSecurity(at+".securityContext", c.SecurityContext)
	for name, probe := range probesOf(c) {
		if probe != nil {
			o.checkProbe(at+"."+name, name, probe, c)
		}
	}
	o.checkLifecycle(at+".lifecycle", c, s)
	o.checkRestarts(at, c)
}

func (o *object) checkPorts(at string, ports []v1.ContainerPort, onHost bool, hostPorts map[string]string) {
	names := map[string]string{}
	for i, port := range ports {
		at := item(at, i)
		if port.Name != "" {
			if len(validation.IsValidPortName(port.Name)) > 0 {
				o.bad(at+".name", "lower-case letters, digits and single '-' inside, at most 15, at least one letter")
			}
			o.unique(names, port.Name, at+".name")
		}
		if port.ContainerPort < 1 || port.ContainerPort > math.MaxUint16 {
			o.bad(at+".containerPort", aPort)
		}
		if port.HostPort < 0 || port.HostPort > math.MaxUint16 {
			o.bad(at+".hostPort", aPort)
		} else if onHost && port.HostPort != port.ContainerPort {
			o.say(at+".hostPort", "expected %d, the containerPort, because the pod has hostNetwork; found %d", port.ContainerPort, port.HostPort)
		}
		o.oneOf(at+".protocol", string(port.Protocol), "TCP", "UDP", "SCTP")
		if port.HostIP != "" {
			o.address(at+".hostIP", port.HostIP)
		}
		if port.HostPort > 0 {
			triple := strings.Join([]string{string(port.Protocol), port.HostIP, strconv.Itoa(int(port.HostPort))}, "/")
			if before, taken := hostPorts[triple]; taken {
				o.say(at+".hostPort", "host port %d is given twice; first at %s", port.HostPort, o.prefix+before)
			} else {
				hostPorts[triple] = at + ".hostPort"
			}
		}
	}
}

// plainFieldPaths are what an environment variable may take from its pod,
// beside single labels and annotations.
var plainFieldPaths = []string{
	"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
	"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
}

var keyedFieldPath = regexp.MustCompile(`^metadata\.(labels|annotations)\['([^']+)'\]$`)

func (o *object) checkEnv(at string, e *v1.EnvVar, s *v1.PodSpec) {
	if e.Name == "" || len(validation.IsRelaxedEnvVarName(e.Name)) > 0 {
		o.bad(at+".name", "printable ASCII without '='")
	}
	from := e.ValueFrom
	if from == nil {
		return
	}
	if e.Value != "" {
		o.say(at+".valueFrom", "not together with value")
	}
	o.oneSource(at+".valueFrom", map[string]bool{"configMapKeyRef": from.ConfigMapKeyRef != nil, "fieldRef": from.FieldRef != nil,
		"fileKeyRef": from.FileKeyRef != nil, "resourceFieldRef": from.ResourceFieldRef != nil, "secretKeyRef": from.SecretKeyRef != nil})
	if f := from.FieldRef; f != nil {
		o.fieldRef(at+".valueFrom.fieldRef", f, plainFieldPaths)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		o.keyRef(at+".valueFrom.configMapKeyRef", r.Name, r.Key)
	}
	if r := from.SecretKeyRef; r != nil {
		o.keyRef(at+".valueFrom.secretKeyRef", r.Name, r.Key)
	}
	if f := from.FileKeyRef; f != nil {
		o.fileKeyRef(at+".valueFrom.fileKeyRef", f, s)
	}
	if r := from.ResourceFieldRef; r != nil {
		o.checkResourceRef(at+".valueFrom.resourceFieldRef", r, s)
	}
}

// divisors are the units in which a resource may be asked for; 0 is the default.
var divisors = map[string][]string{
	"cpu":               {"0", "1m", "1"},
	"memory":            {"0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"},
	"ephemeral-storage": {"0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"},
}

func (o *object) checkResourceRef(at string, r *v1.ResourceFieldSelector, s *v1.PodSpec) {
	side, name, _ := strings.Cut(r.Resource, ".")
	units, known := divisors[name]
	if side != "limits" && side != "requests" || !known {
		o.bad(at+".resource", "limits. or requests. with cpu, memory or ephemeral-storage")
		return
	}
	if !slices.ContainsFunc(units, func(u string) bool { return r.Divisor.Cmp(resource.MustParse(u)) == 0 }) {
		o.bad(at+".divisor", "one of "+strings.Join(units[1:], ", "))
	}
	has := func(c v1.Container) bool { return c.Name == r.ContainerName }
	if r.ContainerName != "" && !slices.ContainsFunc(s.Containers, has) && !slices.ContainsFunc(s.InitContainers, has) {
		o.bad(at+".containerName", "the name of a container of this pod")
	}
}

func (o *object) checkResources(at string, r *v1.ResourceRequirements) {
	for _, side := range []struct {
		name string
		list v1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for _, name := range sortedKeys(side.list) {
			at := keyed(at+"."+side.name, string(name))
			if _, given := o.places[at]; !given {
				continue // filled in from the limit
			}
			switch name {
			case v1.ResourceCPU, v1.ResourceMemory:
			case v1.ResourceEphemeralStorage:
				o.warnAt(at, "accepted without effect: use of the disk is not limited here")
			default:
				o.say(at, "resource not supported here; supported: cpu, memory")
				continue
			}
			if q := side.list[name]; q.Sign() < 0 {
				o.bad(at, "a quantity that is not negative")
			}
		}
	}
	for _, name := range sortedKeys(r.Requests) {
		request, at := r.Requests[name], keyed(at+".requests", string(name))
		if limit, limited := r.Limits[name]; limited && request.Cmp(limit) > 0 && !o.isFailed(at) {
			o.say(at, "expected at most the limit, %s; found %s", limit.String(), request.String())
		}
	}
}

func (o *object) checkMounts(at string, c *v1.Container, volumes map[string]string) {
	first := map[string]string{}
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		at := item(at, i)
		if _, known := volumes[m.Name]; !known && !o.isFailed("spec.volumes") {
			want := "the name of a volume of this pod"
			if meant := nearest(m.Name, sortedKeys(volumes)); meant != "" {
				want = strconv.Quote(meant) + " or another volume of this pod"
			}
			o.bad(at+".name", want)
		}
		if m.MountPath == "" {
			o.bad(at+".mountPath", "an absolute path")
		} else {
			o.unique(first, path.Join("/", m.MountPath), at+".mountPath")
		}
		o.relative(at+".subPath", m.SubPath)
		o.relative(at+".subPathExpr", m.SubPathExpr)
		if m.SubPath != "" && m.SubPathExpr != "" {
			o.say(at+".subPathExpr", "not together with subPath")
		}
		propagation := v1.MountPropagationNone
		if m.MountPropagation != nil {
			propagation = *m.MountPropagation
			o.oneOf(at+".mountPropagation", string(propagation), "None", "HostToContainer", "Bidirectional")
			if propagation == v1.MountPropagationBidirectional && !privileged {
				o.say(at+".mountPropagation", "Bidirectional is for privileged containers only")
			}
		}
		if m.RecursiveReadOnly == nil {
			continue
		}
		switch at := at + ".recursiveReadOnly"; *m.RecursiveReadOnly {
		case v1.RecursiveReadOnlyDisabled:
		case v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyIfPossible:
			if !m.ReadOnly {
				o.say(at, "only with readOnly: true")
			} else if propagation != v1.MountPropagationNone {
				o.say(at, "only without mountPropagation")
			}
		default:
			o.oneOf(at, string(*m.RecursiveReadOnly), "Disabled", "IfPossible", "Enabled")
		}
	}
}

func (o *object) checkSecurity(at string, sc *v1.SecurityContext) {
	if sc == nil {
		return
	}
	o.id(at+".runAsUser", sc.RunAsUser)
	o.id(at+".runAsGroup", sc.RunAsGroup)
	o.checkSeccomp(at+".seccompProfile", sc.SeccompProfile)
	if sc.ProcMount != nil {
		if *sc.ProcMount == v1.UnmaskedProcMount {
			o.say(at+".procMount", "Unmasked is not supported here")
		} else {
			o.oneOf(at+".procMount", string(*sc.ProcMount), "Default")
		}
	}
	var add []v1.Capability
	if sc.Capabilities != nil {
		add = sc.Capabilities.Add
		for list, names := range map[string][]v1.Capability{"add": add, "drop": sc.Capabilities.Drop} {
			for i, name := range names {
				if strings.HasPrefix(strings.ToUpper(string(name)), "CAP_") {
					o.warnAt(item(at+".capabilities."+list, i), "ignored: capabilities are written without CAP_")
				}
			}
		}
	}
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if sc.Privileged != nil && *sc.Privileged {
			o.say(at+".allowPrivilegeEscalation", "expected true with privileged: true; found false")
		} else if slices.Contains(add, "CAP_SYS_ADMIN") {
			o.say(at+".allowPrivilegeEscalation", "expected true with the capability CAP_SYS_ADMIN; found false")
		}
	}
}

var headerName = regexp.MustCompile(`^[-A-Za-z0-9]+$`)

func (o *object) checkProbe(at, kind string, p *v1.Probe, c *v1.Container) {
	var given []string
	if p.Exec != nil {
		given = append(given, "exec")
		if len(p.Exec.Command) == 0 {
			o.say(at+".exec.command", "required, not given")
		}
	}
	if p.GRPC != nil {
		given = append(given, "grpc")
		if p.GRPC.Port < 1 || p.GRPC.Port > math.MaxUint16 {
			o.bad(at+".grpc.port", aPort)
		}
	}
	if get := p.HTTPGet; get != nil {
		given = append(given, "httpGet")
		o.checkRequest(at+".httpGet", get, c)
	}
	if p.TCPSocket != nil {
		given = append(given, "tcpSocket")
		o.probePort(at+".tcpSocket.port", p.TCPSocket.Port, c)
	}
	switch {
	case len(given) > 1:
		o.say(at, "expected one of exec, grpc, httpGet and tcpSocket; found %s", strings.Join(given, " and "))
	case len(given) == 0 && !o.knownUnder(at):
		o.say(at, "expected exec, grpc, httpGet or tcpSocket; found none")
	}
	for name, n := range map[string]int32{"initialDelaySeconds": p.InitialDelaySeconds, "timeoutSeconds": p.TimeoutSeconds,
		"periodSeconds": p.PeriodSeconds, "successThreshold": p.SuccessThreshold, "failureThreshold": p.FailureThreshold} {
		want := wholeNumber("." + name)
		switch name {
		case "initialDelaySeconds":
			want += ", not negative"
		case "successThreshold", "failureThreshold":
			want += ", at least 1"
		}
		if n < 0 {
			o.bad(at+"."+name, want)
		}
	}
	if kind != "readinessProbe" && p.SuccessThreshold > 1 {
		o.bad(at+".successThreshold", "1 for a "+kind)
	}
	if grace := p.TerminationGracePeriodSeconds; grace != nil {
		if kind == "readinessProbe" {
			o.say(at+".terminationGracePeriodSeconds", "not for a readinessProbe: it ends no container")
		} else if *grace < 1 {
			o.bad(at+".terminationGracePeriodSeconds", "whole seconds, at least 1")
		}
	}
}

// checkRequest checks the request of a probe or a hook.
func (o *object) checkRequest(at string, get *v1.HTTPGetAction, c *v1.Container) {
	o.probePort(at+".port", get.Port, c)
	o.oneOf(at+".scheme", string(get.Scheme), "HTTP", "HTTPS")
	for i, h := range get.HTTPHeaders {
		if !headerName.MatchString(h.Name) {
			o.bad(item(at+".httpHeaders", i)+".name", "letters, digits and '-'")
		}
	}
}

// probePort checks the port of a probe or a hook, a number or the name of one of
// the container's ports.
func (o *object) probePort(at string, port intstr.IntOrString, c *v1.Container) {
	if port.Type == intstr.Int {
		if port.IntVal < 1 || port.IntVal > math.MaxUint16 {
			o.bad(at, aPort)
		}
		return
	}
	if len(validation.IsValidPortName(port.StrVal)) > 0 {
		o.bad(at, aPort+" or the name of a port")
		return
	}
	if !slices.ContainsFunc(c.Ports, func(p v1.ContainerPort) bool { return p.Name == port.StrVal }) {
		o.warnAt(at, "no port of this container is named "+quoted(port.StrVal)+"; every attempt will fail")
	}
}
