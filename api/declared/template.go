package declared

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"podd/api/objects"
	"podd/api/rest"
	"podd/pod/manifest"
)

// TemplateKind is the kind PodTemplate as package rest serves it: the pod in it has the
// defaults and the rules of pods. Nothing here makes pods of templates.
func TemplateKind() rest.Kind {
	at := field.NewPath("template")
	templateOf := func(o objects.Object) *v1.PodTemplateSpec { return &o.(*v1.PodTemplate).Template }
	return rest.Kind{
		Resource: rest.Served("", "podtemplates"),
		New:      func() objects.Object { return &v1.PodTemplate{} },
		Default:  func(o objects.Object) { manifest.DefaultTemplate(&templateOf(o).Spec) },
		Validate: func(o objects.Object) field.ErrorList { return checkTemplate(templateOf(o), at) },
		Warnings: func(o, old objects.Object) []string {
			if old != nil && equality.Semantic.DeepEqual(templateOf(o), templateOf(old)) {
				return nil
			}
			return templateWarnings(templateOf(o), at)
		},
		Generations:         true,
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
	}
}

// checkTemplate are the mistakes of a pod template, which is at a path of its object.
// Source: Kubernetes API reference, PodTemplateSpec.
func checkTemplate(t *v1.PodTemplateSpec, at *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(t.Labels, at.Child("labels"))
	errs = append(errs, validation.ValidateAnnotations(t.Annotations, at.Child("annotations"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	if t.Spec.NodeName != "" {
		for _, problem := range validation.NameIsDNSSubdomain(t.Spec.NodeName, false) {
			errs = append(errs, field.Invalid(at.Child("spec", "nodeName"), t.Spec.NodeName, problem))
		}
	}
	p := podOf(t)
	parsed, err := parsePod(p)
	if err != nil {
		return append(errs, field.InternalError(at, err))
	}
	for _, e := range fieldErrors(p, parsed.Problems) {
		e.Field = at.Child(e.Field).String()
		errs = append(errs, e)
	}
	return errs
}

// templateWarnings name what a template gives without effect.
func templateWarnings(t *v1.PodTemplateSpec, at *field.Path) []string {
	parsed, err := parsePod(podOf(t))
	if err != nil {
		return nil
	}
	texts := warnings(parsed.Problems)
	for i := range texts {
		texts[i] = at.Child(texts[i]).String()
	}
	return texts
}

// podOf is a pod as it could be made of a template.
func podOf(t *v1.PodTemplateSpec) *v1.Pod {
	p := &v1.Pod{ObjectMeta: *t.ObjectMeta.DeepCopy(), Spec: *t.Spec.DeepCopy()}
	p.Name, p.GenerateName, p.Namespace = "template", "", metav1.NamespaceDefault
	return p
}
