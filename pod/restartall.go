package pod

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// RestartingAll says that a container exited in a way for which its restart
// policy rules restart all containers of the pod. All others are killed.
type RestartingAll struct {
	At
	Container string
}

// AllEnded says that of the containers to be restarted together none runs any
// more: all begin anew, in the same sandbox, init containers first.
type AllEnded struct{ At }

// RestartAll is a restart of all containers under way.
type RestartAll struct {
	Since     time.Time `json:"since"`
	Container string    `json:"container"` // whose exit asked for it
}

const reasonRestartingAll = "RestartingAllContainers"

// restartAll is the next step of a restart of all containers: the fact that
// begins it or the one that ends it, nil while there is nothing to do.
func restartAll(pod *v1.Pod, o Observed, now time.Time) Fact {
	if !o.Inspected || o.Ending != nil || o.Failure != nil {
		return nil
	}
	if under := o.RestartAll; under != nil {
		if o.anyRunning() || now.Before(o.restartAllAt()) {
			return nil
		}
		return AllEnded{At{now}}
	}
	for _, c := range allContainers(pod) {
		state := o.Containers[c.Name]
		if state.Exit == nil || state.Starting != nil || state.Sandbox != o.Sandbox.ID {
			continue
		}
		done := isInit(pod, c) && !isSidecar(c) && state.Exit.succeeded()
		if action, matched := ruleFor(c, *state.Exit); matched && !done && action == v1.ContainerRestartRuleActionRestartAllContainers {
			return RestartingAll{At: At{now}, Container: c.Name}
		}
	}
	return nil
}

// ruleFor returns what the first rule that matches an exit says. Rules are about
// how a container exits by itself.
func ruleFor(c *v1.Container, e Exit) (action v1.ContainerRestartRuleAction, matched bool) {
	if e.byProbe() || e.notItsOwn() {
		return "", false
	}
	for _, rule := range c.RestartPolicyRules {
		if matches(rule.ExitCodes, e.Code) {
			return rule.Action, true
		}
	}
	return "", false
}

// restartAllAt is when the containers may begin anew: after the back-off of the
// one that asked for it.
func (o Observed) restartAllAt() time.Time { return restartAt(o.Containers[o.RestartAll.Container]) }

// restartAll kills what still runs, without a grace period and so without
// preStop hooks.
func (p *planner) restartAll() {
	since := p.o.RestartAll.Since
	p.why = StopAll
	for _, c := range allContainers(p.pod) {
		p.stop(c.Name, since, since, true)
	}
	if !p.o.anyRunning() {
		p.due(p.o.restartAllAt())
	}
}

// allEnded makes every container wait for a new attempt as after a new sandbox,
// but in this one.
func allEnded(o Observed, now time.Time) Observed {
	if o.RestartAll == nil {
		return o
	}
	asked := o.RestartAll.Container
	o.RestartAll = nil
	for name, c := range o.Containers {
		if name == asked {
			c.Backoff = restarted(c, now)
		}
		if c.Exit != nil {
			c.Last, c.Exit = c.Exit, nil
		}
		c.Sandbox, c.Retry = "", Retry{}
		o = o.with(name, c)
	}
	return o
}

// restartingAllCondition says whether all containers are being restarted. Only
// pods whose rules can ask for that have it.
func (s reporter) restartingAllCondition() (condition v1.PodCondition, has bool) {
	condition = v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	for _, c := range allContainers(s.pod) {
		for _, rule := range c.RestartPolicyRules {
			has = has || rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
		}
	}
	if s.o.RestartAll != nil {
		condition.Status = v1.ConditionTrue
		condition.Reason, condition.Message = "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return condition, has
}

// restartingAllMessage says why a container is killed for another one's exit.
func restartingAllMessage(name, asked string) string {
	return fmt.Sprintf("Stopping container %s: container %s exited with a restart policy rule that restarts all containers", name, asked)
}

// isInit says whether a container is one of the pod's init containers.
func isInit(pod *v1.Pod, c *v1.Container) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return true
		}
	}
	return false
}
