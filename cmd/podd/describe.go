package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"podd/pod"
)

func describeCommand(g *globals) *cobra.Command {
	f := &podFlags{globals: g}
	c := &cobra.Command{
		Use:   "describe [pod] POD",
		Short: "Show a pod's state, containers, conditions and events",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := f.find(c.Context(), args[len(args)-1])
			if err != nil {
				return err
			}
			events, err := f.client().Events(c.Context(), keyOf(p))
			if err != nil {
				return err
			}
			return describe(c.OutOrStdout(), p, events, time.Now())
		},
	}
	f.register(c, false)
	return c
}

// describe prints what kubectl describe pod prints, in its order.
func describe(out io.Writer, p *v1.Pod, events []v1.Event, now time.Time) error {
	d := &description{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	d.line(0, "Name:\t%s", p.Name)
	d.line(0, "Namespace:\t%s", p.Namespace)
	d.line(0, "Node:\t%s", p.Spec.NodeName)
	if p.Status.StartTime != nil {
		d.line(0, "Start Time:\t%s", p.Status.StartTime.Format(time.RFC1123Z))
	}
	d.list("Labels:", p.Labels)
	d.list("Annotations:", p.Annotations)
	d.line(0, "Status:\t%s", pod.Columns(p, now).Status)
	if p.Status.Reason != "" {
		d.line(0, "Reason:\t%s", p.Status.Reason)
	}
	if p.Status.Message != "" {
		d.line(0, "Message:\t%s", p.Status.Message)
	}
	var ips []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	d.line(0, "IPs:\t%s", orNone(strings.Join(ips, ", ")))
	d.containers("Init Containers:", p.Spec.InitContainers, p.Status.InitContainerStatuses)
	d.containers("Containers:", p.Spec.Containers, p.Status.ContainerStatuses)
	var ephemeral []v1.Container
	for _, c := range p.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, v1.Container(c.EphemeralContainerCommon))
	}
	d.containers("Ephemeral Containers:", ephemeral, p.Status.EphemeralContainerStatuses)
	d.line(0, "Conditions:")
	d.line(1, "Type\tStatus\tReason")
	for _, c := range p.Status.Conditions {
		d.line(1, "%s\t%s\t%s", c.Type, c.Status, c.Reason)
	}
	d.line(0, "Volumes:%s", noneIf(len(p.Spec.Volumes) == 0))
	for _, v := range p.Spec.Volumes {
		d.line(1, "%s:\t%s", v.Name, volumeText(v))
	}
	d.line(0, "QoS Class:\t%s", p.Status.QOSClass)
	d.line(0, "Events:%s", noneIf(len(events) == 0))
	if len(events) > 0 {
		d.line(1, "Type\tReason\tAge\tFrom\tMessage")
		d.line(1, "----\t------\t---\t----\t-------")
		for _, e := range events {
			age := duration.HumanDuration(now.Sub(e.LastTimestamp.Time))
			if e.Count > 1 {
				age = fmt.Sprintf("%s (x%d over %s)", age, e.Count, duration.HumanDuration(now.Sub(e.FirstTimestamp.Time)))
			}
			d.line(1, "%s\t%s\t%s\t%s\t%s", e.Type, e.Reason, age, e.Source.Component, strings.TrimSpace(e.Message))
		}
	}
	return d.w.Flush()
}

type description struct{ w *tabwriter.Writer }

func (d *description) line(indent int, format string, args ...any) {
	fmt.Fprintf(d.w, strings.Repeat("  ", indent)+format+"\n", args...)
}

func (d *description) list(title string, m map[string]string) {
	if len(m) == 0 {
		d.line(0, "%s\t<none>", title)
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for i, k := range keys {
		if i > 0 {
			title = ""
		}
		d.line(0, "%s\t%s=%s", title, k, m[k])
	}
}

func (d *description) containers(title string, containers []v1.Container, statuses []v1.ContainerStatus) {
	if len(containers) == 0 {
		return
	}
	d.line(0, "%s", title)
	for _, c := range containers {
		d.line(1, "%s:", c.Name)
		i := slices.IndexFunc(statuses, func(s v1.ContainerStatus) bool { return s.Name == c.Name })
		d.line(2, "Image:\t%s", c.Image)
		if i >= 0 {
			d.line(2, "Container ID:\t%s", orNone(statuses[i].ContainerID))
			d.line(2, "Image ID:\t%s", orNone(statuses[i].ImageID))
		}
		for _, port := range c.Ports {
			text := fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol)
			if port.HostPort != 0 {
				text += fmt.Sprintf(", host port %d", port.HostPort)
			}
			d.line(2, "Port:\t%s", text)
		}
		if len(c.Command) > 0 {
			d.line(2, "Command:\t%s", strings.Join(c.Command, " "))
		}
		if len(c.Args) > 0 {
			d.line(2, "Args:\t%s", strings.Join(c.Args, " "))
		}
		if i >= 0 {
			s := statuses[i]
			d.state("State:", s.State)
			if s.LastTerminationState.Terminated != nil {
				d.state("Last State:", s.LastTerminationState)
			}
			d.line(2, "Ready:\t%t", s.Ready)
			d.line(2, "Restart Count:\t%d", s.RestartCount)
		}
		d.resources("Limits:", c.Resources.Limits)
		d.resources("Requests:", c.Resources.Requests)
		d.probe("Liveness:", c.LivenessProbe)
		d.probe("Readiness:", c.ReadinessProbe)
		d.probe("Startup:", c.StartupProbe)
		d.environment(c)
		for _, m := range c.VolumeMounts {
			mode := "rw"
			if m.ReadOnly {
				mode = "ro"
			}
			if m.SubPath != "" {
				mode += ",path=" + m.SubPath
			}
			d.line(2, "Mount:\t%s from %s (%s)", m.MountPath, m.Name, mode)
		}
	}
}

func (d *description) probe(title string, p *v1.Probe) {
	if p != nil {
		d.line(2, "%s\t%s", title, probeText(p))
	}
}

func (d *description) resources(title string, list v1.ResourceList) {
	var texts []string
	for name, q := range list {
		texts = append(texts, fmt.Sprintf("%s=%s", name, q.String()))
	}
	slices.Sort(texts)
	if len(texts) > 0 {
		d.line(2, "%s\t%s", title, strings.Join(texts, ", "))
	}
}

func (d *description) state(title string, s v1.ContainerState) {
	switch {
	case s.Running != nil:
		d.line(2, "%s\tRunning since %s", title, s.Running.StartedAt.Format(time.RFC1123Z))
	case s.Waiting != nil:
		d.line(2, "%s\tWaiting: %s", title, orNone(s.Waiting.Reason))
		if s.Waiting.Message != "" {
			d.line(2, "\t%s", s.Waiting.Message)
		}
	case s.Terminated != nil:
		t := s.Terminated
		d.line(2, "%s\tTerminated: %s, exit code %d, %s to %s", title, t.Reason, t.ExitCode,
			t.StartedAt.Format(time.RFC1123Z), t.FinishedAt.Format(time.RFC1123Z))
		if t.Message != "" {
			d.line(2, "\t%s", strings.TrimSpace(t.Message))
		}
	}
}

func probeText(p *v1.Probe) string {
	var what string
	switch h := p.ProbeHandler; {
	case h.Exec != nil:
		what = fmt.Sprintf("exec %v", h.Exec.Command)
	case h.HTTPGet != nil:
		what = fmt.Sprintf("http-get %s://%s:%s%s", strings.ToLower(string(h.HTTPGet.Scheme)), h.HTTPGet.Host, h.HTTPGet.Port.String(), h.HTTPGet.Path)
	case h.TCPSocket != nil:
		what = fmt.Sprintf("tcp-socket %s:%s", h.TCPSocket.Host, h.TCPSocket.Port.String())
	case h.GRPC != nil:
		what = fmt.Sprintf("grpc :%d", h.GRPC.Port)
	}
	return fmt.Sprintf("%s delay=%ds timeout=%ds period=%ds #success=%d #failure=%d", what,
		p.InitialDelaySeconds, p.TimeoutSeconds, p.PeriodSeconds, p.SuccessThreshold, p.FailureThreshold)
}

func volumeText(v v1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		text := "EmptyDir"
		if v.EmptyDir.Medium != "" {
			text += " (" + string(v.EmptyDir.Medium) + ")"
		}
		if v.EmptyDir.SizeLimit != nil {
			text += ", at most " + v.EmptyDir.SizeLimit.String()
		}
		return text
	case v.HostPath != nil:
		return "HostPath " + v.HostPath.Path
	case v.PersistentVolumeClaim != nil:
		text := "PersistentVolumeClaim " + v.PersistentVolumeClaim.ClaimName
		if v.PersistentVolumeClaim.ReadOnly {
			text += ", read-only"
		}
		return text
	case v.Ephemeral != nil:
		return "Ephemeral, a directory that goes with the pod"
	case v.Image != nil:
		return "Image " + v.Image.Reference
	case v.NFS != nil:
		return "NFS " + v.NFS.Server + ":" + v.NFS.Path
	case v.ConfigMap != nil:
		return "ConfigMap " + v.ConfigMap.Name + optionalText(v.ConfigMap.Optional)
	case v.Secret != nil:
		return "Secret " + v.Secret.SecretName + optionalText(v.Secret.Optional)
	case v.DownwardAPI != nil:
		return "DownwardAPI"
	case v.Projected != nil:
		var from []string
		for _, s := range v.Projected.Sources {
			switch {
			case s.ConfigMap != nil:
				from = append(from, "ConfigMap "+s.ConfigMap.Name+optionalText(s.ConfigMap.Optional))
			case s.Secret != nil:
				from = append(from, "Secret "+s.Secret.Name+optionalText(s.Secret.Optional))
			case s.DownwardAPI != nil:
				from = append(from, "DownwardAPI")
			}
		}
		return "Projected from " + strings.Join(from, ", ")
	}
	return "unknown kind"
}

func optionalText(optional *bool) string {
	if optional != nil && *optional {
		return " (optional)"
	}
	return ""
}

// environment prints where variables come from, never what is in a Secret.
func (d *description) environment(c v1.Container) {
	for _, from := range c.EnvFrom {
		text := ""
		switch {
		case from.ConfigMapRef != nil:
			text = "ConfigMap " + from.ConfigMapRef.Name + optionalText(from.ConfigMapRef.Optional)
		case from.SecretRef != nil:
			text = "Secret " + from.SecretRef.Name + optionalText(from.SecretRef.Optional)
		}
		if from.Prefix != "" {
			text += ", with prefix " + from.Prefix
		}
		d.line(2, "Variables from:\t%s", text)
	}
	for _, e := range c.Env {
		text := e.Value
		switch from := e.ValueFrom; {
		case from == nil:
		case from.ConfigMapKeyRef != nil:
			text = fmt.Sprintf("<key %s of ConfigMap %s>%s", from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Name, optionalText(from.ConfigMapKeyRef.Optional))
		case from.SecretKeyRef != nil:
			text = fmt.Sprintf("<key %s of Secret %s>%s", from.SecretKeyRef.Key, from.SecretKeyRef.Name, optionalText(from.SecretKeyRef.Optional))
		case from.FieldRef != nil:
			text = fmt.Sprintf("<%s>", from.FieldRef.FieldPath)
		case from.ResourceFieldRef != nil:
			text = fmt.Sprintf("<%s>", from.ResourceFieldRef.Resource)
		case from.FileKeyRef != nil:
			text = fmt.Sprintf("<%s of file %s in volume %s>%s", from.FileKeyRef.Key, from.FileKeyRef.Path, from.FileKeyRef.VolumeName, optionalText(from.FileKeyRef.Optional))
		}
		d.line(2, "Variable:\t%s=%s", e.Name, text)
	}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func noneIf(none bool) string {
	if none {
		return "\t<none>"
	}
	return ""
}
