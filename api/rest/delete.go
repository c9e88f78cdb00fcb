package rest

import (
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"podd/api/objects"
)

// deleteOptions reads what a client wants of a deletion: from the body, and if
// there is none, from the arguments.
func (c *call) deleteOptions() (*metav1.DeleteOptions, error) {
	options := &metav1.DeleteOptions{}
	media, err := bodyMedia(c.r.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if data := c.body; len(data) > 0 {
		// Clients send it in the group of the resource, of meta.k8s.io, or in core.
		kind := schema.GroupVersionKind{Kind: "DeleteOptions"}
		if media == mediaProtobuf {
			err = decodeProtobuf(data, &kind, options)
		} else {
			_, err = decodeText(data, media, &kind, options)
		}
		if err == nil && kind.Kind != "DeleteOptions" {
			err = fmt.Errorf("decoded object cannot be converted to DeleteOptions")
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	} else if err := c.deleteArguments(options); err != nil {
		return nil, err
	}
	if errs := metav1validation.ValidateDeleteOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	return options, nil
}

func (c *call) deleteArguments(options *metav1.DeleteOptions) error {
	if c.args.Get("gracePeriodSeconds") != "" {
		grace, err := c.number("gracePeriodSeconds")
		if err != nil {
			return err
		}
		options.GracePeriodSeconds = &grace
	}
	if policy := metav1.DeletionPropagation(c.args.Get("propagationPolicy")); policy != "" {
		options.PropagationPolicy = &policy
	}
	if c.args.Get("orphanDependents") != "" {
		orphan := boolArg(c.args, "orphanDependents")
		options.OrphanDependents = &orphan
	}
	options.DryRun = c.args["dryRun"]
	return nil
}

// delete serves DELETE of one object.
func (c *call) delete() error {
	options, err := c.deleteOptions()
	if err != nil {
		return err
	}
	o, gone, err := c.s.delete(c.kind, c.key(), options, c.mayDelete(options))
	if err != nil {
		return err
	}
	code := http.StatusOK
	if !gone && (options.OrphanDependents != nil && !*options.OrphanDependents ||
		options.PropagationPolicy != nil && *options.PropagationPolicy == metav1.DeletePropagationForeground) {
		code = http.StatusAccepted
	}
	if gone && !c.kind.ReturnsDeleted {
		return c.write(code, &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status:   metav1.StatusSuccess,
			Details:  &metav1.StatusDetails{Name: c.Name, Group: c.Group, Kind: c.Resource, UID: o.GetUID()},
		})
	}
	return c.respond(code, c.kind.shape(o))
}

// mayDelete asks, for one object, what a deletion by a client depends on.
func (c *call) mayDelete(options *metav1.DeleteOptions) func(stored objects.Object) error {
	return func(stored objects.Object) error {
		if err := c.preconditions(stored, options.Preconditions); err != nil {
			return err
		}
		if file := c.s.DeclaredIn(stored); file != "" && propagation(options) == metav1.DeletePropagationForeground {
			c.warn(fmt.Sprintf("propagationPolicy Foreground: this is declared in %s and does not wait for its dependents; they are deleted in the background", file))
		}
		return c.admit(nil, c.kind.shape(stored))
	}
}

// deleteCollection serves DELETE of what a selector matches.
func (c *call) deleteCollection() error {
	options, err := c.deleteOptions()
	if err != nil {
		return err
	}
	sel, err := c.selector()
	if err != nil {
		return err
	}
	all, from, err := c.state(0)
	if err != nil {
		return err
	}
	var deleted []objects.Object
	for _, o := range all {
		if !sel.matches(c.kind.shape(o)) {
			continue
		}
		c.Name = o.GetName() // as messages and hooks see it
		o, _, err := c.s.delete(c.kind, c.kind.key(o.GetNamespace(), o.GetName()), options, c.mayDelete(options))
		switch {
		case apierrors.IsNotFound(err): // somebody else was quicker
		case err != nil:
			return err
		default:
			deleted = append(deleted, c.kind.shape(o))
		}
	}
	c.Name = ""
	return c.respondList(deleted, listMeta{version: max(from.Version, c.s.Store.Version())})
}

// delete begins or finishes the deletion of an object, and tells whether it is
// gone. What is returned is in the store's shape.
func (s *Server) delete(k *Kind, key objects.Key, options *metav1.DeleteOptions, may func(objects.Object) error) (o objects.Object, gone bool, err error) {
	step := func(old objects.Object) (objects.Object, error) {
		if old == nil {
			return nil, apierrors.NewNotFound(k.GroupResource(), key.Name)
		}
		if may != nil {
			if err := may(old); err != nil {
				return nil, err
			}
		}
		o := k.deleting(old, options.GracePeriodSeconds, time.Now())
		switch {
		case s.DeclaredIn(old) == "" && (o != old || !pending(old)):
			o = k.propagated(o, options)
		case s.DeclaredIn(old) != "" && len(options.DryRun) == 0 && propagation(options) == metav1.DeletePropagationOrphan:
			// Its file decides when it goes: it cannot wait for dependents.
			if err := s.orphan(s.ownership(), old.GetUID()); err != nil {
				return nil, err
			}
		}
		if gone = k.unfinalized(o); gone && k.Grace == nil {
			return nil, nil
		}
		return o, nil
	}
	if len(options.DryRun) > 0 {
		old, found := s.Store.Get(key)
		if !found {
			old = nil
		}
		if o, err = step(old); o == nil {
			o = old
		}
		return o, gone, err
	}
	if o, err = s.put(key, step); err != nil || !gone || k.Grace == nil {
		return o, gone, err
	}
	// What could have had time to end is shown as deleted before it is gone.
	last := o
	o, err = s.put(key, func(now objects.Object) (objects.Object, error) {
		if now == nil || now.GetUID() != last.GetUID() {
			return now, nil
		}
		return nil, nil
	})
	if o == nil || o.GetUID() != last.GetUID() { // somebody else was quicker
		o = last
	}
	return o, gone, err
}

// deleting returns an object as it is once its deletion was asked for with a
// grace period (nil: the usual one): the time it ends is set, or comes earlier
// if it was set. The same object if nothing changes.
func (k *Kind) deleting(old objects.Object, asked *int64, now time.Time) objects.Object {
	grace := int64(0)
	if k.Grace != nil {
		grace = k.Grace(old, asked)
	}
	o := old.DeepCopyObject().(objects.Object)
	m := metaOf(o)
	if m.DeletionTimestamp != nil {
		before := int64(0)
		if m.DeletionGracePeriodSeconds != nil {
			before = *m.DeletionGracePeriodSeconds
		}
		if asked == nil || grace >= before {
			return old
		}
		m.DeletionTimestamp = &metav1.Time{Time: m.DeletionTimestamp.Add(time.Duration(grace-before) * time.Second)}
		m.DeletionGracePeriodSeconds = &grace
		return o
	}
	m.DeletionTimestamp = &metav1.Time{Time: now.Add(time.Duration(grace) * time.Second).Truncate(time.Second)}
	m.DeletionGracePeriodSeconds = &grace
	if m.Generation > 0 {
		m.Generation++
	}
	if k.PrepareDelete != nil {
		k.PrepareDelete(o)
	}
	return o
}

// pending says that an object's deletion takes its time already.
func pending(o objects.Object) bool {
	grace := o.GetDeletionGracePeriodSeconds()
	return o.GetDeletionTimestamp() != nil && grace != nil && *grace > 0
}

// Delete begins or finishes the deletion of a stored object, as DELETE does.
func (s *Server) Delete(key objects.Key, options *metav1.DeleteOptions) error {
	_, _, err := s.delete(s.stored(key.Resource), key, options, nil)
	return err
}
