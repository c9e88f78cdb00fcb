package main

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"

	"podd/api/auth"
	"podd/api/conns"
	"podd/api/declared"
	"podd/api/discovery"
	"podd/api/kubelet"
	"podd/api/node"
	"podd/api/objects"
	"podd/api/podlogs"
	"podd/api/rest"
	"podd/internal/healthz"
	"podd/internal/refusal"
)

// kube is the Kubernetes API of this node: the store, what keeps it true, and who
// may ask.
type kube struct {
	store   *objects.Store
	server  *rest.Server
	keeper  *declared.Keeper
	pki     *auth.PKI
	auth    *auth.Auth
	node    *node.Keeper
	kubelet http.Handler
	log     logr.Logger
	asked   atomic.Int64  // requests so far
	loaded  chan struct{} // closed once what was kept is in the store
}

// newKube puts the API together; watchLogs tells followers when logs change. It serves
// nobody yet.
func (a *agent) newKube(ctx context.Context, watchLogs func(dir string) (<-chan struct{}, func(), error)) (*kube, error) {
	log := a.log.WithName("api")
	k := &kube{store: objects.New(), log: log, loaded: make(chan struct{})}
	var err error
	if k.pki, err = auth.Open(pkiDir(a.rootDir), a.serverNames()); err != nil {
		return nil, err
	}
	var tokens *auth.Tokens
	if a.tokenFile != "" {
		if tokens, err = auth.OpenTokens(a.tokenFile); err != nil {
			return nil, fmt.Errorf("--token-auth-file: %w", err)
		}
	}
	k.auth = auth.New(k.pki, tokens, log)
	k.node = &node.Keeper{
		Store: k.store, Facts: a.facts, Logger: log,
		Look: func(context.Context) (node.Load, error) { return nodeLoad(a.meter, a.rootDir) },
	}
	toKubelet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { k.kubelet.ServeHTTP(w, r) }) // which is made below
	kinds := rest.Kinds(rest.KindOptions{Store: k.store, NodeProxy: node.Proxy(toKubelet, a.facts)})
	kinds = append(kinds, declared.TemplateKind())
	kinds = append(kinds, auth.Kinds()...)
	kinds = append(kinds, node.Kinds(k.usage(a))...)
	k.keeper = declared.New(ctx, declared.Config{
		Files: declared.OpenFiles(objectsDir(a.rootDir), declared.Kept(kinds)),
		Store: k.store, Board: a.board, Loader: a.watcher, Runner: a.manager, Node: a.facts.Name, Logger: log,
		EventsFile: filepath.Join(a.runDir, "events.json"),
	})
	k.node.Event = k.keeper.Event
	podLogs := podlogs.Config{Board: a.board, Dir: a.podLogsDir, Watch: watchLogs, Logger: log}
	pods := k.keeper.Kind(podLogs, func(key objects.Key, o *metav1.DeleteOptions) error { return k.server.Delete(key, o) })
	declared.Connect(&pods, a.manager)
	kinds = append(kinds, pods)
	k.server = rest.New(rest.Config{
		Store: k.store, Kinds: kinds, Log: log, Other: a.otherPaths(kinds),
		Admit: k.keeper.AdmitRequest, Persist: k.keeper.Persist, DeclaredIn: declared.DeclaredIn,
		Hidden: k.keeper.Hidden, Settled: k.keeper.Settled, Event: k.keeper.Event,
		Allowed: func(ctx context.Context, q rest.Request) error {
			return auth.Allowed(ctx, auth.Attributes{
				Verb: q.Verb, Group: q.Group, Resource: q.Resource, Subresource: q.Subresource, Namespace: q.Namespace, Name: q.Name,
			})
		},
		Client: func(r *http.Request) string {
			u, _ := auth.UserOf(r.Context())
			return "user " + u.Name
		},
	})
	k.keeper.Namespace = k.server.EnsureNamespace
	k.kubelet = kubelet.New(kubelet.Config{
		Board: a.board, Pods: a.manager, Logs: podLogs.Open, Metrics: a.api.Metrics, Healthy: a.api.Healthy, LogDir: "/var/log", Version: versionText(),
		Configz: a.configz, Flags: a.flags,
		Authorize: func(r *http.Request, verb, subresource string) error {
			return auth.Allowed(r.Context(), auth.Attributes{Verb: verb, Resource: "nodes", Subresource: subresource, Name: a.facts.Name})
		},
	})
	return k, nil
}

// objectsDir is where what the API makes is kept.
func objectsDir(rootDir string) string { return filepath.Join(rootDir, "objects") }

// run keeps what the API shows true, until ctx ends. The pods of the records are on
// the board by then.
func (k *kube) run(ctx context.Context, start func(func() error), port int) error {
	k.keeper.Load()
	close(k.loaded)
	// Nobody is told that there are none. Those that were there stay as they were made.
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, v1.NamespaceNodeLease} {
		if err := k.server.EnsureNamespace(name); err != nil {
			return err
		}
	}
	start(func() error { return k.server.Run(ctx, k.pki.Certificate()) })
	start(func() error { k.keeper.Run(ctx); return nil })
	start(func() error { k.node.Run(ctx); return nil })
	return k.server.EnsureKubernetesService(int32(port))
}

// services are those of a namespace that containers are told of, once they are known. The
// API's own is not among them: pods do not reach it.
func (k *kube) services(ctx context.Context, namespace string) []*v1.Service {
	select {
	case <-k.loaded:
	case <-ctx.Done():
		return nil
	}
	stored, _ := k.store.List(schema.GroupResource{Resource: "services"}, namespace)
	var all []*v1.Service
	for _, o := range stored {
		if s, is := o.(*v1.Service); is && !(namespace == metav1.NamespaceDefault && s.Name == rest.KubernetesService) {
			all = append(all, s)
		}
	}
	return all
}

// otherPaths serves what is no resource: what there is, and health.
func (a *agent) otherPaths(kinds []rest.Kind) http.Handler {
	var served []discovery.Resource
	for _, k := range kinds {
		served = append(served, k.Resource)
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	described := discovery.New(served, apiversion.Info{
		Major: major, Minor: minor, GitVersion: kubernetesVersion, GitTreeState: "clean",
		GoVersion: goruntime.Version(), Compiler: goruntime.Compiler, Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
	})
	mux := http.NewServeMux()
	mux.Handle("/", described)
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		healthy := healthz.Handler(path, a.api.Healthy)
		mux.Handle("GET "+path, healthy)
		mux.Handle("GET "+path+"/", healthy)
	}
	for path, h := range a.api.Metrics {
		mux.Handle("GET "+path, h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		verb := "get"
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			verb = strings.ToLower(r.Method)
		}
		if err := auth.Allowed(r.Context(), auth.Attributes{Verb: verb, Path: r.URL.Path}); err != nil {
			refusal.Write(w, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// usage measures pods and the machine for metrics.k8s.io.
func (k *kube) usage(a *agent) *node.Meter {
	return &node.Meter{
		Node: a.facts.Name,
		Labels: func() map[string]string {
			if n, found := k.store.Get(objects.Key{Resource: v1.Resource("nodes"), Name: a.facts.Name}); found {
				return n.GetLabels()
			}
			return nil
		},
		Machine: func(context.Context) (node.Sample, error) {
			u, err := a.meter.Machine()
			return node.Sample{CPU: u.CPU, Memory: u.WorkingSetBytes}, err
		},
		Pods: func() []*v1.Pod { pods, _ := a.board.Snapshot(); return pods },
		Pod: func(ctx context.Context, p *v1.Pod) map[string]node.Sample {
			all := map[string]node.Sample{}
			for name, u := range a.meter.Usage(ctx, p).Containers {
				all[name] = node.Sample{CPU: u.CPU.Usage, Memory: u.Memory.WorkingSet, Run: u.ID}
			}
			return all
		},
	}
}

// serverNames are the names and addresses that the server's certificate is for.
func (a *agent) serverNames() []string {
	names := []string{
		"localhost", "127.0.0.1", "::1", a.facts.Name,
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + a.clusterDomain,
	}
	for _, ip := range a.facts.IPs {
		names = append(names, ip.String())
	}
	if a.apiAddress != "" && net.ParseIP(a.apiAddress) != nil && !net.ParseIP(a.apiAddress).IsUnspecified() {
		names = append(names, a.apiAddress)
	}
	return names
}

// kubeconfigPath is where root finds how to reach the API: with a root directory of
// its own an agent has a file of its own.
func (o *runOptions) kubeconfigPath() string {
	switch {
	case o.kubeconfig != "":
		return o.kubeconfig
	case o.rootDir == defaultRootDir:
		return "/etc/podd/kubeconfig"
	}
	return filepath.Join(o.rootDir, "kubeconfig")
}

// apiURL is where clients on this machine reach the API.
func (o *runOptions) apiURL() string {
	host := o.apiAddress
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(o.apiPort))
}

// listenKube opens a port of the API; nil when it is turned off.
func (o *runOptions) listenKube(port int, flag string) (net.Listener, error) {
	if port == 0 {
		return nil, nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.apiAddress, strconv.Itoa(port)))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("port %d of %s is taken: choose another with --%s, or 0 for none", port, o.apiAddress, flag)
	}
	return l, err
}

// serveKube serves users on the ports that are open.
func (a *agent) serveKube(ctx context.Context, start func(func() error), api, kubelet net.Listener) {
	told := func(line string) { a.log.V(1).Info("a client of the API", "line", line) }
	if api != nil {
		a.writeKubeconfig(a.kube)
		start(func() error { return a.kube.serveTLS(ctx, api, a.kube.server, shortAnswer, told) })
	}
	if kubelet != nil {
		start(func() error { return a.kube.serveTLS(ctx, kubelet, a.kube.kubelet, 0, told) })
	}
}

// shortAnswer is how long a client of the API may take over an answer that is made at
// once. The others have deadlines of their own.
const shortAnswer = 30 * time.Second

// serveTLS serves users over TLS, within limits of this port's own, until ctx ends. An
// answer without a deadline of its own may take as long as writeTimeout; 0: for ever.
func (k *kube) serveTLS(ctx context.Context, l net.Listener, h http.Handler, writeTimeout time.Duration, log func(string)) error {
	limits := &conns.Limits{
		UserOf: func(r *http.Request) (string, bool) {
			k.asked.Add(1)
			u, known := auth.UserOf(r.Context())
			return u.Name, known
		},
		Refuse: func(w http.ResponseWriter, why string) { refusal.Write(w, apierrors.NewTooManyRequests(why, 1)) },
	}
	server := &http.Server{
		Handler: k.auth.Handler(limits.Handler(h)), TLSConfig: k.auth.TLS(), ConnContext: limits.Context,
		ReadHeaderTimeout: 10 * time.Second, WriteTimeout: writeTimeout, IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 64 << 10,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 250},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    stdlog.New(lineWriter(log), "", 0),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.ServeTLS(limits.Listener(l), "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// lineWriter gives each line to a function.
type lineWriter func(string)

func (f lineWriter) Write(p []byte) (int, error) {
	f(strings.TrimSpace(string(p)))
	return len(p), nil
}

// asRoot serves whoever reaches a socket that only root can reach.
func asRoot(h http.Handler) http.Handler {
	root := auth.User{Name: "root", Groups: []string{auth.GroupOf(auth.Admin), "system:authenticated"}, Role: auth.Admin}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(auth.WithUser(r.Context(), root)))
	})
}

// writeKubeconfig lets root in with kubectl. That it cannot be written stops nobody.
func (a *agent) writeKubeconfig(k *kube) {
	path := a.kubeconfigPath()
	written, err := k.pki.KeepKubeconfig(path, a.apiURL(), "root")
	switch {
	case err != nil:
		a.log.Error(err, "no kubeconfig was written")
	case written:
		a.log.Info("wrote a kubeconfig", "file", path)
	}
}

// configz is what the agent runs with, in the form of --config.
func (a *agent) configz() any {
	c := a.configuration()
	c.PodCIDR = strings.Join(a.facts.PodCIDRs, ",") // also when it was not given
	return c
}
