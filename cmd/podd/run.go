package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"podd/api"
	"podd/api/node"
	"podd/images"
	"podd/internal/sdnotify"
	"podd/internal/seal"
	"podd/internal/timerslack"
	"podd/logs"
	"podd/metrics"
	"podd/pod"
	"podd/pod/claims"
	"podd/pod/manifest"
	"podd/pod/native"
	"podd/pod/store"
	"podd/sandbox"
	"podd/sandbox/network"
	"podd/volumes"
)

// runOptions are the agent's settings: flags, and what only a configuration
// file has.
type runOptions struct {
	*globals
	manifests, configFile        string
	podLogsDir, containerLogsDir string
	address                      string
	readOnlyPort                 int
	webConfig                    string
	insecureMetrics              bool
	cgroupRoot, bridge, podCIDR  string
	hostname, pauseBinary        string
	secretIdentity               string
	mirrors                      []string
	providerConfig, providerBin  string
	providers                    *images.CredentialProviders // read by validate
	verbosity                    int
	logFormat                    string
	rescan                       time.Duration
	podPidsLimit                 int64
	clusterDNS                   []netip.Addr
	clusterDomain, resolvConf    string
	pullQPS                      float64
	pullBurst, parallelPulls     int
	gcHigh, gcLow                int
	gcMinAge, gcMaxAge           time.Duration
	logMaxBytes                  int64
	logMaxFiles                  int
	allowedSysctls               []string
	strictProbes                 bool
	apiAddress                   string
	apiPort, kubeletPort         int
	kubeconfig, tokenFile        string
	flags                        func() [][2]string // all, each with its value
}

func runCommand(g *globals) *cobra.Command {
	o := &runOptions{
		globals: g, clusterDomain: "cluster.local", resolvConf: "/etc/resolv.conf",
		pullQPS: 5, pullBurst: 10, gcHigh: 85, gcLow: 80, gcMinAge: 2 * time.Minute,
		logMaxBytes: 10 << 20, logMaxFiles: 5,
	}
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the agent: keep the pods of a directory running",
		Long: `Run the agent. Every .yaml, .yml and .json file in the manifest directory holds
pods; a new file starts them, a changed one changes them, a removed one stops
them. When the agent ends, for whatever reason, the pods go on, and the next
agent takes them over.

Several agents run side by side on one machine when each has its own --root-dir,
--run-dir, --pod-logs-dir, --cgroup-root, --bridge, --pod-cidr, --read-only-port,
--api-port and --kubelet-port.`,
		Example: `  podd run --manifests /etc/podd/manifests
  podd run --config kubelet.yaml -v 1`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.flags = func() (all [][2]string) {
				c.Flags().VisitAll(func(f *pflag.Flag) { all = append(all, [2]string{f.Name, f.Value.String()}) })
				return all
			}
			return o.run(c.Context(), c.Flags().Changed)
		},
	}
	f := c.Flags()
	f.StringVar(&o.manifests, "manifests", "/etc/podd/manifests", "directory of manifests, or one file")
	f.StringVar(&o.manifests, "pod-manifest-path", "/etc/podd/manifests", "the same, by the kubelet's name")
	f.Lookup("pod-manifest-path").Hidden = true
	f.StringVar(&o.configFile, "config", "", "a KubeletConfiguration (kubelet.config.k8s.io/v1beta1); flags win over it")
	f.StringVar(&o.podLogsDir, "pod-logs-dir", "/var/log/pods", "directory of container logs")
	f.StringVar(&o.address, "address", "127.0.0.1", "address of the read-only port; another than loopback serves health and metrics only")
	f.IntVar(&o.readOnlyPort, "read-only-port", 10255, "port of /pods, /metrics and /healthz; 0 turns it off")
	f.StringVar(&o.webConfig, "web-config", "", "TLS and basic auth for the read-only port, in the form of Prometheus' exporters")
	f.BoolVar(&o.insecureMetrics, "insecure-metrics", false, "serve metrics without TLS on an address other than loopback")
	f.StringVar(&o.cgroupRoot, "cgroup-root", "podd", "cgroup below which all pods live; systemd's unit gives it podd.slice/podd-pods.service")
	f.StringVar(&o.bridge, "bridge", "podd0", "name of the bridge that connects the pods")
	f.StringVar(&o.podCIDR, "pod-cidr", "", "pod addresses, V4[,V6]; by default 10.244.0.0/24 and a generated IPv6 /64")
	f.StringVar(&o.hostname, "hostname-override", "", "the node's name; by default the host's")
	f.StringVar(&o.pauseBinary, "pause-binary", "", "podd-pause; by default the one beside this program")
	f.StringArrayVar(&o.mirrors, "image-mirror", nil, "PREFIX=URL or PREFIX=DIR: where images of a registry are looked for first; a directory holds OCI layouts or archives; may be repeated")
	f.StringVar(&o.providerConfig, "image-credential-provider-config", "", "a CredentialProviderConfig (kubelet.config.k8s.io/v1), or a directory of them: programs that know credentials for registries")
	f.StringVar(&o.providerBin, "image-credential-provider-bin-dir", "", "directory of these programs")
	f.StringVar(&o.secretIdentity, "secret-identity", "", "age identity that opens sealed Secrets; by default "+identityCredential+" among systemd's credentials, else "+defaultIdentity)
	f.BoolVar(&o.strictProbes, "strict-probes", false, "count each probe attempt that runs into its timeout as a failure, also where the machine was starved or suspended")
	f.StringVar(&o.apiAddress, "api-address", "127.0.0.1", "address of the Kubernetes API and of the kubelet's endpoints; 0.0.0.0 or :: for all")
	f.IntVar(&o.apiPort, "api-port", 6443, "port of the Kubernetes API, for kubectl; 0 turns it off")
	f.IntVar(&o.kubeletPort, "kubelet-port", 10250, "port of the kubelet's endpoints; 0 turns it off")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig to write for root; by default /etc/podd/kubeconfig, or kubeconfig in --root-dir if that is given")
	f.StringVar(&o.tokenFile, "token-auth-file", "", "bearer tokens of users, a line each: token,user,uid,\"groups\"; the group podd:view, podd:edit or podd:admin gives the role")
	f.IntVarP(&o.verbosity, "v", "v", 0, "verbosity; 1 and above log every step")
	f.StringVar(&o.logFormat, "logging-format", "text", "text or json")
	return c
}

func (o *runOptions) run(ctx context.Context, given func(string) bool) error {
	var warnings []string
	if o.configFile != "" {
		var err error
		if warnings, err = readConfigFile(o.configFile, o, func(flag string) bool {
			return given(flag) || flag == "manifests" && given("pod-manifest-path")
		}); err != nil {
			return err
		}
	}
	log, err := newLogger(o.logFormat, o.verbosity)
	if err != nil {
		return err
	}
	klog.SetLogger(log.WithName("streams").V(1)) // of k8s.io/streaming; each stream that a client makes in vain is a warning there
	for _, w := range warnings {
		log.Info(w)
	}
	if os.Geteuid() != 0 {
		return errors.New("podd run needs root: it makes namespaces, mounts and cgroups (try: sudo podd run)")
	}
	if err := o.absolute(); err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	cidrs, err := parseCIDRs(o.podCIDR)
	if err != nil {
		return err // validated before
	}
	if err := obstacles(o.rootDir, o.bridge, cidrs); err != nil {
		return err
	}
	// Nobody but the kernel and its own kind looks into the agent: no ptrace,
	// no core with what pods were told.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot make the agent undumpable: %w", err)
	}
	unlock, err := lockDirectories(o.runDir, o.rootDir)
	if err != nil {
		return err
	}
	defer unlock()
	systemd, err := sdnotify.FromEnvironment()
	if err != nil {
		return err
	}
	collect := collectSeldom()
	agent, err := newAgent(ctx, o, log)
	if err != nil {
		return err
	}
	agent.collect = collect
	agent.systemd = systemd
	return agent.run(ctx)
}

// agent is everybody, wired.
type agent struct {
	*runOptions
	log      logr.Logger
	runtime  *native.Runtime
	meter    *native.Meter
	images   *images.Store
	store    *store.Store
	sources  *store.Sources
	claims   *store.Claims
	manager  *pod.Manager
	watcher  *manifest.Watcher
	board    *pod.Board
	records  []pod.Record
	api      api.Config
	counters *metrics.Counters
	facts    node.Facts
	kube     *kube
	events   *pod.EventStore
	systemd  *sdnotify.Notifier // nil when systemd does not listen
	collect  func()             // collects garbage as usual from now on
}

// timerSlack is by how much the agent's timers may be late, so that each probe
// does not wake the runtime's monitor again and again.
const timerSlack = time.Millisecond

func newAgent(ctx context.Context, o *runOptions, log logr.Logger) (*agent, error) {
	a := &agent{runOptions: o, log: log, board: pod.NewBoard()}
	// Pods do not need the agent to live, but a machine that is out of memory
	// needs it to tell what happened; the kubelet's value. Not every machine
	// permits it.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil {
		log.V(1).Info("cannot lower the agent's OOM score", "error", err.Error())
	}
	for _, dir := range []string{filepath.Join(o.rootDir, "pods"), filepath.Join(o.runDir, "pods"), o.podLogsDir, o.containerLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot prepare directories: %w", err)
		}
	}
	var err error
	if a.store, err = store.Open(store.Config{RootDir: o.rootDir, RunDir: o.runDir, Logger: log.WithName("store")}); err != nil {
		return nil, err
	}
	listed := make(chan error, 1)
	go func() { // beside what follows, which reads a.records once it hears that they are listed
		var err error
		a.records, err = a.store.List()
		listed <- err
	}()
	nodeName, hostIPs, err := nodeIdentity(o.hostname, o.bridge)
	if err != nil {
		return nil, err
	}
	if err := volumes.Share(o.rootDir); err != nil {
		return nil, err
	}
	inherited := timerslack.Relax(timerSlack)
	sandboxes, err := sandbox.Open(sandbox.Config{RunDir: o.runDir, PauseBinary: o.pauseBinary, TimerSlack: inherited, Logger: log.WithName("sandbox")})
	if err != nil {
		return nil, err
	}
	cgroups, err := openCgroups(ctx, o.runDir, o.cgroupRoot, log.WithName("cgroup"))
	if err != nil {
		return nil, err
	}
	cidrs, err := parseCIDRs(o.podCIDR)
	if err != nil {
		return nil, err // validated before
	}
	net, err := network.Open(ctx, network.Config{
		Bridge: o.bridge, CIDRs: cidrs, StateDir: filepath.Join(o.rootDir, "network"), Logger: log.WithName("network"),
	})
	if err != nil {
		return nil, err
	}
	a.facts = nodeFacts(nodeName, hostIPs, net.Prefixes(), o.kubeletPort)
	if a.images, err = openImages(o.globals, o, log.WithName("images")); err != nil {
		return nil, err
	}
	if a.runtime, err = native.New(native.Config{
		RootDir: o.rootDir, RunDir: o.runDir, PodLogsDir: o.podLogsDir, ContainerLogsDir: o.containerLogsDir,
		NodeName: nodeName, HostIPs: hostIPs, ClusterDNS: o.clusterDNS, ClusterDomain: o.clusterDomain, ResolvConf: o.resolvConf,
		LogMaxBytes: o.logMaxBytes, LogMaxFiles: o.logMaxFiles, PodPidsLimit: o.podPidsLimit, AllowedSysctls: o.allowedSysctls,
		StrictProbes: o.strictProbes, Services: func(namespace string) []*v1.Service { return a.kube.services(ctx, namespace) },
		Sandboxes: sandboxes, Cgroups: cgroups, Network: net, Images: a.images, Logger: log.WithName("runtime"),
	}); err != nil {
		return nil, err
	}
	a.meter = native.NewMeter(a.runtime)
	if err := <-listed; err != nil {
		return nil, err
	}
	if err := a.runtime.Reconcile(ctx, a.records); err != nil {
		return nil, err
	}
	a.events = &pod.EventStore{Source: nodeName, Tell: func(e *v1.Event) { a.kube.keeper.Event(e) }}
	a.counters = metrics.NewCounters(a.board)
	a.manager = pod.NewManager(pod.Config{
		Runtime: a.runtime, Store: a.store, Records: a.records, Board: a.board, Events: a.events.Record, Trace: a.counters.Fact,
		NodeName: nodeName, HostIPs: hostIPs, Logger: log.WithName("pods"),
		Ended: func(key pod.Key, uid types.UID) { a.kube.keeper.Ended(key, uid) },
	})
	loaded := make([]pod.Desired, 0, len(a.records))
	for _, r := range a.records {
		loaded = append(loaded, r.Desired())
	}
	if a.sources, err = a.store.Sources(); err != nil {
		return nil, err
	}
	loadedSources, err := a.sources.List()
	if err != nil {
		return nil, err
	}
	if a.claims, err = a.store.Claims(claims.Node{Name: nodeName, Labels: node.Labels(nodeName)}); err != nil {
		return nil, err
	}
	a.watcher = manifest.New(manifest.Config{
		Dir: o.manifests, Objects: objectsDir(o.rootDir), Loaded: loaded, LoadedSources: loadedSources,
		Bind: func(in claims.Input) claims.Bound { return a.kube.keeper.Bound(a.claims.Bind(in)) },
		Keep: func(all []pod.Source) { a.sources.Set(all); a.kube.keeper.Sources(all) },
		Open: (&seal.Opener{Path: agentIdentity(o.secretIdentity)}).Open, Rescan: o.rescan, Logger: log.WithName("manifests"),
	})
	watcher, err := logs.NewWatcher()
	if err != nil {
		return nil, err
	}
	a.api = api.Config{
		Board: a.board, Commands: a.manager, Healthy: a.healthy,
		Problems: a.problems, Mistakes: a.mistakes, Version: versionText(), Logger: log.WithName("api"),
		Metrics: a.metrics(), Claims: a.claimObjects, Volumes: a.volumeObjects,
	}
	if a.kube, err = a.newKube(ctx, watcher.Watch); err != nil {
		return nil, err
	}
	a.kube.keeper.Sources(loadedSources) // until something else is read
	a.api.Kube = asRoot(a.kube.server)
	return a, nil
}

// run starts the agent's goroutines and waits for them: the manager with its
// workers, the watcher, two servers, the six that look after, keep and tidy up,
// and those that tell systemd how it goes. The first that fails ends all; pods go
// on whatever happens here.
func (a *agent) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	control, err := listenControl(a.runDir)
	if err != nil {
		return err
	}
	port, err := a.listenReadOnly()
	if err != nil {
		return err
	}
	kubePort, err := a.listenKube(a.apiPort, "api-port")
	if err != nil {
		return err
	}
	kubeletPort, err := a.listenKube(a.kubeletPort, "kubelet-port")
	if err != nil {
		return err
	}
	sets := make(chan []pod.Desired)
	var running sync.WaitGroup
	start := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	start(func() error { return a.manager.Run(ctx, sets) })
	start(func() error { return a.watcher.Run(ctx, sets) })
	// Who connects meanwhile waits, and is not told that there are no pods.
	select {
	case <-a.manager.Adopted():
	case <-ctx.Done():
	}
	if err := a.kube.run(ctx, start, a.apiPort); err != nil {
		cancel(err)
	}
	start(func() error { return serve(ctx, control, api.Control(a.api)) })
	if port != nil {
		start(func() error { return a.serveReadOnly(ctx, port) })
	}
	a.serveKube(ctx, start, kubePort, kubeletPort)
	a.collect()
	start(func() error { a.sources.Keep(ctx); return nil })
	start(func() error { a.claims.Reclaim(ctx, a.usesClaim, volumes.RemoveDir); return nil })
	start(func() error { a.watchFirewalls(ctx); return nil })
	start(func() error { a.runtime.CompressLogs(ctx); return nil })
	start(func() error { a.collectImages(ctx); return nil })
	start(func() error { restWhenIdle(ctx, a.board, a.images.Pulling, a.kube.asked.Load, a.log); return nil })
	a.tellReady(ctx, start)
	a.log.Info("podd is running", "version", versionText(), "manifests", a.manifests, "adopted", len(a.records))
	<-ctx.Done()
	a.told(a.systemd.Stopping())
	running.Wait()
	a.log.Info("podd stops; pods go on")
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// watchFirewalls tells every pod that is there what stands in its way when that
// changes; the runtime tells those that are made later.
func (a *agent) watchFirewalls(ctx context.Context) {
	err := a.runtime.Network.Watch(ctx, func(drops []network.ForeignDrop) {
		pods, _ := a.board.Snapshot()
		for _, p := range pods {
			if p.Spec.HostNetwork || p.Status.Phase != v1.PodRunning {
				continue
			}
			e := pod.Event{Key: pod.Key{Namespace: p.Namespace, Name: p.Name}, UID: p.UID, Reason: native.ReasonFirewall, At: time.Now()}
			if len(drops) == 0 {
				e.Type, e.Message = v1.EventTypeNormal, "No other firewall drops forwarded packets any more."
				a.events.Record(e)
			}
			for _, d := range drops {
				e.Type, e.Message = v1.EventTypeWarning, d.Message()
				a.events.Record(e)
			}
		}
	})
	if err != nil {
		a.log.Error(err, "the host's firewalls are not looked at any more")
	}
}

// healthPatience is how long whoever asks after the agent's health waits for it.
const healthPatience = 2 * time.Second

// healthy returns nil while the manager's loop answers; without it nothing that is
// wanted is done.
func (a *agent) healthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), healthPatience)
	defer cancel()
	if err := a.manager.Alive(ctx); err != nil {
		return fmt.Errorf("the manager of pods does not answer: %w", err)
	}
	return nil
}

// problems are the lines about manifests that `podd get` shows.
func (a *agent) problems() []string {
	var lines []string
	for _, r := range a.watcher.Problems() {
		for _, p := range r.Problems {
			if !p.Warning {
				lines = append(lines, p.String())
			}
		}
	}
	return lines
}

// mistakes are the lines about the file of a pod that runs by an earlier version
// of it.
func (a *agent) mistakes(key pod.Key) []string {
	var lines []string
	for _, r := range a.watcher.Problems() {
		if !slices.ContainsFunc(r.Kept, func(k manifest.Kept) bool { return k.Key == key }) {
			continue
		}
		for _, p := range r.Problems {
			if !p.Warning {
				lines = append(lines, p.String())
			}
		}
	}
	return lines
}

// validate refuses what cannot work before anything is made, and reads the
// credential providers.
func (o *runOptions) validate() error {
	if _, err := parseCIDRs(o.podCIDR); err != nil {
		return err
	}
	if o.readOnlyPort < 0 || o.readOnlyPort > 65535 {
		return fmt.Errorf("--read-only-port: expected 0 to 65535; found %d", o.readOnlyPort)
	}
	if o.readOnlyPort != 0 && !o.onLoopback() && o.webConfig == "" && !o.insecureMetrics {
		return fmt.Errorf("--address %s is not loopback: give --web-config for TLS and passwords, or --insecure-metrics", o.address)
	}
	if o.webConfig != "" {
		if _, err := api.LoadWebConfig(o.webConfig); err != nil {
			return fmt.Errorf("--web-config: %w", err)
		}
	}
	if (o.providerConfig == "") != (o.providerBin == "") {
		return errors.New("--image-credential-provider-config and --image-credential-provider-bin-dir belong together: give both or none")
	}
	if o.providerConfig != "" {
		var err error
		if o.providers, err = images.LoadCredentialProviders(o.providerConfig, o.providerBin); err != nil {
			return err
		}
	}
	if _, err := os.Stat(o.pauseBinary); err != nil {
		return fmt.Errorf("podd-pause is not beside podd: install it there or name it with --pause-binary: %w", err)
	}
	return nil
}

// absolute makes directories independent of where the agent was started.
func (o *runOptions) absolute() error {
	if o.pauseBinary == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.pauseBinary = filepath.Join(filepath.Dir(self), "podd-pause")
	}
	for _, p := range []*string{&o.rootDir, &o.runDir, &o.podLogsDir, &o.manifests, &o.pauseBinary} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	// The links lie beside the logs, so that agents do not share them.
	o.containerLogsDir = filepath.Join(filepath.Dir(o.podLogsDir), "containers")
	if base := filepath.Base(o.podLogsDir); base != "pods" {
		o.containerLogsDir = filepath.Join(filepath.Dir(o.podLogsDir), base+"-containers")
	}
	return nil
}

// lockDirectories sees to it that one agent uses a directory.
func lockDirectories(dirs ...string) (unlock func(), err error) {
	var files []*os.File
	unlock = func() {
		for _, f := range files {
			f.Close()
		}
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			unlock()
			return nil, fmt.Errorf("cannot prepare %s: %w", dir, err)
		}
		f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			unlock()
			return nil, err
		}
		files = append(files, f)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			unlock()
			return nil, fmt.Errorf("another agent uses %s (give this one a directory of its own)", dir)
		}
	}
	return unlock, nil
}

func newLogger(format string, verbosity int) (logr.Logger, error) {
	opts := &slog.HandlerOptions{Level: slog.Level(-verbosity)}
	switch format {
	case "text":
		return logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, opts)), nil
	case "json":
		return logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, opts)), nil
	}
	return logr.Logger{}, fmt.Errorf("--logging-format: expected text or json; found %q", format)
}

func parseCIDRs(s string) ([]netip.Prefix, error) {
	if s == "" {
		return nil, nil
	}
	var cidrs []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("--pod-cidr: expected ranges such as 10.244.0.0/24 or 10.244.0.0/24,fd00:1::/64; found %q", part)
		}
		cidrs = append(cidrs, p)
	}
	return cidrs, nil
}

// listenControl opens the socket for commands; only root can reach it.
func listenControl(runDir string) (net.Listener, error) {
	dir, err := os.Open(runDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// By the directory's descriptor: a socket path has 107 bytes.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), api.SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for commands in %s: %w", runDir, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// listenReadOnly opens the port for scrapers; nil when it is turned off.
func (a *agent) listenReadOnly() (net.Listener, error) {
	if a.readOnlyPort == 0 {
		return nil, nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(a.address, fmt.Sprint(a.readOnlyPort)))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("port %d of %s is taken: choose another with --read-only-port, or 0 for none", a.readOnlyPort, a.address)
	}
	return l, err
}

func (o *runOptions) onLoopback() bool {
	ip, err := netip.ParseAddr(o.address)
	return o.address == "localhost" || err == nil && ip.IsLoopback()
}

func (a *agent) serveReadOnly(ctx context.Context, l net.Listener) error {
	h := api.ReadOnly(a.api)
	if !a.onLoopback() {
		h = api.MetricsOnly(a.api)
	}
	if a.webConfig == "" {
		return serve(ctx, l, h)
	}
	config, err := api.LoadWebConfig(a.webConfig)
	if err != nil {
		return err
	}
	return serve(ctx, config.Listener(l), config.Handler(h))
}
