package runtimetest

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"podd/pod"
)

// Subject is a runtime under test.
type Subject struct {
	Runtime pod.Runtime
	// Image is present and holds busybox's sh, sleep and cat.
	Image string
	// Absent is a well-formed reference of an image that is nowhere.
	Absent string
}

// contractDeadline is how long any one answer may take on a loaded machine.
const contractDeadline = 30 * time.Second

// Contract checks what every runtime promises to a worker. subject is called
// for each part and may register cleanups.
func Contract(t *testing.T, subject func(t *testing.T) Subject) {
	for name, part := range map[string]func(*contract){
		"RepeatedActionsAnswerTheSame":       repeatedActions,
		"AnExitIsReportedWithItsCode":        exitCode,
		"AStopEndsInAnExit":                  stopped,
		"AMissingCommandIsAStartError":       missingCommand,
		"AMissingImageIsAFailedImage":        missingImage,
		"ALaterRuntimeFindsWhatRuns":         found,
		"NothingIsLeftAfterRemovePod":        removed,
		"DestroyingWhatIsNotThereSucceeds":   destroyNothing,
		"AnExitWhileNobodyWatchedIsReported": exitUnwatched,
		"AHookIsAnsweredHoweverOftenAsked":   hookTwice,
		"AHookEndsWithItsContainer":          hookEnds,
		"AResizeIsAnsweredAndMayBeRepeated":  resizedTwice,
		"ClientsSeeOutputFromNowOn":          attachedTwice,
		"AnAttachEndsWithItsContainer":       attachEnds,
		"StdinOnceIsTheFirstClients":         attachedOnce,
	} {
		t.Run(name, func(t *testing.T) {
			c := &contract{T: t, Subject: subject(t), facts: make(chan pod.Fact, 1000)}
			ctx, cancel := context.WithCancel(context.Background())
			c.ctx = ctx
			t.Cleanup(func() {
				cancel()
				c.remove()
			})
			part(c)
		})
	}
}

// contract is one part under way: a pod and the facts about it.
type contract struct {
	*testing.T
	Subject
	ctx    context.Context
	target pod.Target
	facts  chan pod.Fact
	// resources, stdin and stdinOnce are what "app" is given; set before up.
	resources        v1.ResourceRequirements
	stdin, stdinOnce bool
}

// up brings a pod with one container "app" to the point where it can be started.
func (c *contract) up(command ...string) {
	c.Helper()
	uid := uuid.NewUUID()
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "contract", Name: "p" + string(uid[:8]), UID: uid},
		Spec: v1.PodSpec{
			RestartPolicy: v1.RestartPolicyNever, DNSPolicy: v1.DNSDefault, SecurityContext: &v1.PodSecurityContext{},
			EnableServiceLinks: new(false), TerminationGracePeriodSeconds: new(int64(5)),
			Containers: []v1.Container{{
				Name: "app", Image: c.Image, ImagePullPolicy: v1.PullNever, Command: command, Resources: c.resources,
				Stdin: c.stdin, StdinOnce: c.stdinOnce,
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageReadFile,
			}},
		},
	}
	c.target = pod.Target{UID: uid, Pod: p}
	expect[pod.VolumesReady](c, pod.EnsureVolumes{})
	c.target.SandboxID = contractID("5")
	s := expect[pod.SandboxUp](c, pod.EnsureSandbox{ID: c.target.SandboxID})
	c.target.IPs = s.IPs
	expect[pod.ImageReady](c, pod.EnsureImage{Container: "app", Image: c.Image, Policy: v1.PullNever})
}

// contractID makes an ID of one digit.
func contractID(digit string) string { return strings.Repeat(digit, 64) }

// watch starts a watch, which ends with the part.
func (c *contract) watch() {
	target := c.target
	go c.Runtime.Watch(c.ctx, target, c.report)
}

func (c *contract) report(f pod.Fact) {
	select {
	case c.facts <- f:
	case <-c.ctx.Done():
	}
}

// perform carries an action out; its facts can be awaited.
func (c *contract) perform(a pod.Action) { c.Runtime.Perform(c.ctx, c.target, a, c.report) }

// expect performs an action and returns the answer of the expected kind.
func expect[F pod.Fact](c *contract, a pod.Action) F {
	c.Helper()
	c.perform(a)
	return await[F](c)
}

// await returns the next fact of one kind; other facts are passed over, but
// failures that were not asked for end the part.
func await[F pod.Fact](c *contract) F {
	c.Helper()
	deadline := time.After(contractDeadline)
	for {
		select {
		case f := <-c.facts:
			if wanted, ok := f.(F); ok {
				return wanted
			}
			switch f.(type) {
			case pod.SandboxFailed, pod.VolumesFailed, pod.ImageFailed, pod.ContainerStartFailed, pod.ResizeFailed, pod.ActionFailed:
				c.Fatalf("%+v, while waiting for %T", f, *new(F))
			}
		case <-deadline:
			c.Fatalf("no %T within %v", *new(F), contractDeadline)
		}
	}
}

// remove takes everything away, whatever a part left.
func (c *contract) remove() {
	if c.target.UID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), contractDeadline)
	defer cancel()
	c.Runtime.Perform(ctx, c.target, pod.DestroySandbox{}, func(pod.Fact) {})
	c.Runtime.Perform(ctx, c.target, pod.RemovePod{}, func(pod.Fact) {})
}

var app = pod.StartContainer{Container: "app", ID: contractID("a")}

func repeatedActions(c *contract) {
	c.up("sleep", "3600")
	expect[pod.VolumesReady](c, pod.EnsureVolumes{})
	expect[pod.VolumesReady](c, pod.RefreshVolumes{})
	again := expect[pod.SandboxUp](c, pod.EnsureSandbox{ID: c.target.SandboxID})
	if len(again.IPs) != len(c.target.IPs) || len(again.IPs) > 0 && again.IPs[0] != c.target.IPs[0] {
		c.Errorf("the sandbox's addresses were %v and are %v", c.target.IPs, again.IPs)
	}
	first := expect[pod.ContainerStarted](c, app)
	second := expect[pod.ContainerStarted](c, app)
	if first.Pid != second.Pid || first.Pid == 0 {
		c.Errorf("started as %d, then as %d; want one process", first.Pid, second.Pid)
	}
}

func exitCode(c *contract) {
	c.up("sh", "-c", "exit 7")
	c.watch()
	c.perform(app)
	e := await[pod.ContainerExited](c)
	if e.ExitCode != 7 || e.Container != "app" || e.ID != app.ID || e.Time.IsZero() {
		c.Errorf("got %+v; want exit code 7 of app", e)
	}
}

func stopped(c *contract) {
	c.up("sleep", "3600") // as process 1 it does not hear SIGTERM
	c.watch()
	expect[pod.ContainerStarted](c, app)
	c.perform(pod.StopContainer{Container: "app", ID: app.ID, Grace: time.Hour})
	c.perform(pod.StopContainer{Container: "app", ID: app.ID, Grace: 100 * time.Millisecond})
	if e := await[pod.ContainerExited](c); e.ExitCode != 137 && e.ExitCode != 143 {
		c.Errorf("exit code %d; want that of a signal", e.ExitCode)
	}
}

// upWithHook brings a container up that has a preStop hook.
func (c *contract) upWithHook(h v1.LifecycleHandler) {
	c.up("sleep", "3600")
	c.target.Pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &h}
	c.watch()
	expect[pod.ContainerStarted](c, app)
}

// runHook asks for the hook.
func (c *contract) runHook() {
	c.perform(pod.RunHook{Container: "app", ID: app.ID, Kind: pod.PreStop, Since: time.Now()})
}

func hookTwice(c *contract) {
	c.upWithHook(v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"mkdir", "/once"}}})
	for range 2 {
		c.runHook()
		if h := await[pod.HookDone](c); h.Failure != "" || h.ID != app.ID || h.Kind != pod.PreStop {
			c.Errorf("got %+v; want the success of the first", h)
		}
	}
}

func hookEnds(c *contract) {
	c.upWithHook(v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3600}})
	ended := make(chan struct{})
	go func() { // ends with the hook
		c.runHook()
		close(ended)
	}()
	c.perform(pod.StopContainer{Container: "app", ID: app.ID, Grace: 100 * time.Millisecond})
	await[pod.ContainerExited](c)
	select {
	case <-ended:
	case <-time.After(contractDeadline):
		c.Fatal("the hook goes on without its container")
	}
	select {
	case f := <-c.facts:
		if h, ok := f.(pod.HookDone); ok {
			c.Errorf("got %+v; want nothing", h)
		}
	default:
	}
}

func missingCommand(c *contract) {
	c.up("/no/such/command")
	c.perform(app)
	if f := await[pod.ContainerStartFailed](c); f.Reason != "RunContainerError" || f.ExitCode != 128 || f.Message == "" {
		c.Errorf("got %+v; want RunContainerError, 128 and a message", f)
	}
}

func missingImage(c *contract) {
	c.up("sleep", "3600")
	c.perform(pod.EnsureImage{Container: "app", Image: c.Absent, Policy: v1.PullNever})
	if f := await[pod.ImageFailed](c); f.Reason != "ErrImageNeverPull" || f.Container != "app" {
		c.Errorf("got %+v; want ErrImageNeverPull", f)
	}
}

func found(c *contract) {
	c.up("sleep", "3600")
	started := expect[pod.ContainerStarted](c, app)
	i, err := c.Runtime.Inspect(c.ctx, c.target)
	if err != nil {
		c.Fatal(err)
	}
	if i.Sandbox == nil || i.Sandbox.ID != c.target.SandboxID || !i.Volumes {
		c.Errorf("found sandbox %+v, volumes %v", i.Sandbox, i.Volumes)
	}
	if len(i.Containers) != 1 || i.Containers[0].Pid != started.Pid || i.Containers[0].Exit != nil {
		c.Errorf("found containers %+v; want the running one", i.Containers)
	}
	if !c.present(c.target.UID) {
		c.Error("the pod is not listed as present")
	}
}

func (c *contract) present(uid types.UID) bool {
	uids, err := c.Runtime.Present(c.ctx)
	if err != nil {
		c.Fatal(err)
	}
	for _, u := range uids {
		if u == uid {
			return true
		}
	}
	return false
}

func removed(c *contract) {
	c.up("sleep", "3600")
	c.watch()
	expect[pod.ContainerStarted](c, app)
	expect[pod.SandboxGone](c, pod.DestroySandbox{})
	expect[pod.PodRemoved](c, pod.RemovePod{})
	expect[pod.PodRemoved](c, pod.RemovePod{})
	i, err := c.Runtime.Inspect(c.ctx, c.target)
	if err != nil || i.Sandbox != nil || i.Volumes || len(i.Containers) > 0 {
		c.Errorf("found %+v, %v; want nothing", i, err)
	}
	if c.present(c.target.UID) {
		c.Error("the pod is still present")
	}
}

func destroyNothing(c *contract) {
	uid := uuid.NewUUID()
	c.target = pod.Target{UID: uid, Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}}
	expect[pod.SandboxGone](c, pod.DestroySandbox{})
	expect[pod.PodRemoved](c, pod.RemovePod{})
}

func resizedTwice(c *contract) {
	c.resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}
	c.up("sleep", "3600")
	expect[pod.ContainerStarted](c, app)
	resize := pod.ResizePod{
		Before: pod.Resources{"app": c.resources},
		After: pod.Resources{"app": {
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("200m")},
			Limits:   v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")},
		}},
		Containers: map[string]string{"app": app.ID},
	}
	for range 2 {
		if f := expect[pod.Resized](c, resize); f.Containers["app"] != app.ID || f.Time.IsZero() {
			c.Errorf("got %+v; want what was asked for", f)
		}
	}
}

func exitUnwatched(c *contract) {
	c.up("sh", "-c", "exit 3")
	c.perform(app)
	deadline := time.Now().Add(contractDeadline)
	for { // until the exit has happened unseen
		i, err := c.Runtime.Inspect(c.ctx, c.target)
		if err != nil {
			c.Fatal(err)
		}
		if len(i.Containers) == 1 && i.Containers[0].Exit != nil {
			break
		}
		if time.Now().After(deadline) {
			c.Fatal("the exit was not recorded")
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.watch()
	if e := await[pod.ContainerExited](c); e.ExitCode != 3 {
		c.Errorf("exit code %d; want 3", e.ExitCode)
	}
}
