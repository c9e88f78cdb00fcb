package rest

import (
	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
)

// eventKind is the core/v1 shape of events, in which they are stored.
func eventKind() Kind {
	get := func(f func(e *v1.Event) string) func(objects.Object) string { return typedResult(f) }
	return Kind{
		Resource:            Served("", "events"),
		New:                 func() objects.Object { return &v1.Event{} },
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Fields: map[string]func(objects.Object) string{
			"involvedObject.kind":            get(func(e *v1.Event) string { return e.InvolvedObject.Kind }),
			"involvedObject.namespace":       get(func(e *v1.Event) string { return e.InvolvedObject.Namespace }),
			"involvedObject.name":            get(func(e *v1.Event) string { return e.InvolvedObject.Name }),
			"involvedObject.uid":             get(func(e *v1.Event) string { return string(e.InvolvedObject.UID) }),
			"involvedObject.apiVersion":      get(func(e *v1.Event) string { return e.InvolvedObject.APIVersion }),
			"involvedObject.resourceVersion": get(func(e *v1.Event) string { return e.InvolvedObject.ResourceVersion }),
			"involvedObject.fieldPath":       get(func(e *v1.Event) string { return e.InvolvedObject.FieldPath }),
			"reason":                         get(func(e *v1.Event) string { return e.Reason }),
			"reportingComponent":             get(func(e *v1.Event) string { return e.ReportingController }),
			"source":                         get(eventSource),
			"type":                           get(func(e *v1.Event) string { return e.Type }),
		},
		Validate: typedResult(func(e *v1.Event) field.ErrorList {
			return validateEventNamespace(e.Namespace, e.InvolvedObject, field.NewPath("involvedObject", "namespace"))
		}),
	}
}

// eventSource is who reported an event, by either of the two names it has.
func eventSource(e *v1.Event) string {
	if e.Source.Component != "" {
		return e.Source.Component
	}
	return e.ReportingController
}

// validateEventNamespace checks that an event lies beside what it is about;
// events about what has no namespace lie in default or kube-system.
func validateEventNamespace(namespace string, about v1.ObjectReference, at *field.Path) field.ErrorList {
	if about.Namespace != "" && about.Namespace != namespace ||
		about.Namespace == "" && namespace != v1.NamespaceDefault && namespace != "kube-system" {
		return field.ErrorList{field.Invalid(at, about.Namespace, "does not match event.namespace")}
	}
	return nil
}

// eventViewKind is the events.k8s.io/v1 shape of the same objects.
func eventViewKind() Kind {
	get := func(f func(e *eventsv1.Event) string) func(objects.Object) string { return typedResult(f) }
	return Kind{
		Resource:            Served("events.k8s.io", "events"),
		New:                 func() objects.Object { return &eventsv1.Event{} },
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Fields: map[string]func(objects.Object) string{
			"regarding.kind":            get(func(e *eventsv1.Event) string { return e.Regarding.Kind }),
			"regarding.namespace":       get(func(e *eventsv1.Event) string { return e.Regarding.Namespace }),
			"regarding.name":            get(func(e *eventsv1.Event) string { return e.Regarding.Name }),
			"regarding.uid":             get(func(e *eventsv1.Event) string { return string(e.Regarding.UID) }),
			"regarding.apiVersion":      get(func(e *eventsv1.Event) string { return e.Regarding.APIVersion }),
			"regarding.resourceVersion": get(func(e *eventsv1.Event) string { return e.Regarding.ResourceVersion }),
			"regarding.fieldPath":       get(func(e *eventsv1.Event) string { return e.Regarding.FieldPath }),
			"reason":                    get(func(e *eventsv1.Event) string { return e.Reason }),
			"reportingController":       get(func(e *eventsv1.Event) string { return e.ReportingController }),
			"type":                      get(func(e *eventsv1.Event) string { return e.Type }),
		},
		Validate: typedResult(validateEventView),
		View: &View{
			Of:   Served("", "events").GroupResource(),
			From: func(stored objects.Object) objects.Object { return eventFromCore(stored.(*v1.Event)) },
			To:   func(o, _ objects.Object) objects.Object { return eventToCore(o.(*eventsv1.Event)) },
		},
	}
}

// validateEventView has the rules of the newer API for events that it makes
// itself, which are those with an eventTime.
func validateEventView(e *eventsv1.Event) field.ErrorList {
	errs := validateEventNamespace(e.Namespace, e.Regarding, field.NewPath("regarding", "namespace"))
	const mostReason, mostNote = 128, 1024
	required := func(name, value string) {
		if value == "" {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
	}
	if e.EventTime.IsZero() && e.DeprecatedFirstTimestamp.IsZero() && e.DeprecatedLastTimestamp.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.EventTime.IsZero() {
		return errs
	}
	required("reportingController", e.ReportingController)
	required("reportingInstance", e.ReportingInstance)
	required("action", e.Action)
	required("reason", e.Reason)
	if len(e.Reason) > mostReason {
		errs = append(errs, field.TooLong(field.NewPath("reason"), "", mostReason))
	}
	if len(e.Note) > mostNote {
		errs = append(errs, field.TooLong(field.NewPath("note"), "", mostNote))
	}
	if e.Type != v1.EventTypeNormal && e.Type != v1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	return errs
}

func eventFromCore(e *v1.Event) *eventsv1.Event {
	v := &eventsv1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		Action: e.Action, Reason: e.Reason, Regarding: e.InvolvedObject, Related: e.Related, Note: e.Message, Type: e.Type,
		DeprecatedSource: e.Source, DeprecatedFirstTimestamp: e.FirstTimestamp, DeprecatedLastTimestamp: e.LastTimestamp, DeprecatedCount: e.Count,
	}
	if s := e.Series; s != nil {
		v.Series = &eventsv1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return v
}

func eventToCore(v *eventsv1.Event) *v1.Event {
	e := &v1.Event{
		ObjectMeta: v.ObjectMeta, EventTime: v.EventTime,
		ReportingController: v.ReportingController, ReportingInstance: v.ReportingInstance,
		Action: v.Action, Reason: v.Reason, InvolvedObject: v.Regarding, Related: v.Related, Message: v.Note, Type: v.Type,
		Source: v.DeprecatedSource, FirstTimestamp: v.DeprecatedFirstTimestamp, LastTimestamp: v.DeprecatedLastTimestamp, Count: v.DeprecatedCount,
	}
	if s := v.Series; s != nil {
		e.Series = &v1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return e
}
