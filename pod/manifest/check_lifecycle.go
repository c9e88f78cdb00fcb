package manifest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"podd/pod"
)

func hooksOf(c *v1.Container) map[string]*v1.LifecycleHandler {
	if c.Lifecycle == nil {
		return nil
	}
	return map[string]*v1.LifecycleHandler{"postStart": c.Lifecycle.PostStart, "preStop": c.Lifecycle.PreStop}
}

func (o *object) checkLifecycle(at string, c *v1.Container, s *v1.PodSpec) {
	for name, hook := range hooksOf(c) {
		if hook != nil {
			o.checkHook(at+"."+name, hook, c, s)
		}
	}
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return
	}
	if s.OS == nil || s.OS.Name == "" {
		o.say(at+".stopSignal", "needs spec.os.name: linux beside it, as in Kubernetes")
	}
	if !isSignal(string(*c.Lifecycle.StopSignal)) {
		o.bad(at+".stopSignal", "the name of a signal, such as SIGTERM, SIGUSR1 or SIGRTMIN+3")
	}
}

// checkHook checks the handler of a lifecycle hook.
func (o *object) checkHook(at string, h *v1.LifecycleHandler, c *v1.Container, s *v1.PodSpec) {
	var given []string
	if h.Exec != nil {
		given = append(given, "exec")
		if len(h.Exec.Command) == 0 {
			o.say(at+".exec.command", "required, not given")
		}
	}
	if h.HTTPGet != nil {
		given = append(given, "httpGet")
		o.checkRequest(at+".httpGet", h.HTTPGet, c)
	}
	if h.Sleep != nil {
		given = append(given, "sleep")
		if most := *s.TerminationGracePeriodSeconds; h.Sleep.Seconds < 0 || h.Sleep.Seconds > most {
			o.bad(at+".sleep.seconds", fmt.Sprintf("whole seconds, from 0 to the pod's terminationGracePeriodSeconds, %d", max(most, 0)))
		}
	}
	switch {
	case len(given) > 1:
		o.say(at, "expected one of exec, httpGet and sleep; found %s", strings.Join(given, " and "))
	case len(given) == 0 && !o.knownUnder(at):
		o.say(at, "expected exec, httpGet or sleep; found none")
	}
}

// signals are the names that Kubernetes knows, but for those of the real-time
// signals.
const signals = " SIGABRT SIGALRM SIGBUS SIGCHLD SIGCLD SIGCONT SIGFPE SIGHUP SIGILL SIGINT SIGIO SIGIOT SIGKILL SIGPIPE " +
	"SIGPOLL SIGPROF SIGPWR SIGQUIT SIGSEGV SIGSTKFLT SIGSTOP SIGSYS SIGTERM SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 " +
	"SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ SIGRTMIN SIGRTMAX "

func isSignal(name string) bool {
	if strings.Contains(signals, " "+name+" ") && name != "" {
		return true
	}
	for prefix, most := range map[string]int{"SIGRTMIN+": 15, "SIGRTMAX-": 14} {
		digits, found := strings.CutPrefix(name, prefix)
		n, err := strconv.Atoi(digits)
		if found && err == nil && n >= 1 && n <= most && strconv.Itoa(n) == digits {
			return true
		}
	}
	return false
}

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

// checkRestarts checks when a container is restarted.
func (o *object) checkRestarts(at string, c *v1.Container) {
	if c.RestartPolicy != nil {
		o.oneOf(at+".restartPolicy", string(*c.RestartPolicy), "Always", "OnFailure", "Never")
	}
	rules := at + ".restartPolicyRules"
	if len(c.RestartPolicyRules) > 0 && c.RestartPolicy == nil {
		o.say(rules, "need a restartPolicy beside them, for the exits that no rule is about")
	}
	if len(c.RestartPolicyRules) > maxRestartRules {
		o.say(rules, "expected at most %d; found %d", maxRestartRules, len(c.RestartPolicyRules))
	}
	for i := range c.RestartPolicyRules {
		r, at := &c.RestartPolicyRules[i], item(rules, i)
		o.oneOf(at+".action", string(r.Action), "Restart", "RestartAllContainers")
		if r.ExitCodes == nil {
			o.say(at+".exitCodes", "required, not given")
			continue
		}
		o.oneOf(at+".exitCodes.operator", string(r.ExitCodes.Operator), "In", "NotIn")
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			o.say(at+".exitCodes.values", "expected at most %d; found %d", maxExitCodes, n)
		}
	}
}

// checkGates checks readiness gates and the annotation that opens them.
func (o *object) checkGates(p *v1.Pod) {
	open := pod.OpenGates(p)
	var gates []string
	for i, gate := range p.Spec.ReadinessGates {
		at := item("spec.readinessGates", i) + ".conditionType"
		name := string(gate.ConditionType)
		gates = append(gates, name)
		switch {
		case len(validation.IsQualifiedName(name)) > 0:
			o.bad(at, "the name of a condition, such as example.com/warmed-up")
		case !slices.Contains(open, name):
			o.warnAt(at, "the pod is not ready until the annotation "+pod.GatesAnnotation+" names this condition")
		}
	}
	for _, name := range open {
		if !slices.Contains(gates, name) {
			o.warnAt(keyed("metadata.annotations", pod.GatesAnnotation), quoted(name)+" is no readiness gate of this pod")
		}
	}
}
