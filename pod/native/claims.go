package native

import (
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/pod"
	"podd/pod/claims"
	"podd/volumes"
)

// claimed is the volume of a claim that a pod names.
func (r *Runtime) claimed(t pod.Target, name string) (volumes.Claimed, error) {
	c, found := t.Sources.Claim(t.Pod.Namespace, name)
	switch {
	case !found:
		return volumes.Claimed{}, fmt.Errorf("persistentvolumeclaim %q not found", name)
	case c.Volume == nil:
		return volumes.Claimed{}, fmt.Errorf("persistentvolumeclaim %q is not bound: %s", name, c.Message)
	}
	key := pod.Key{Namespace: t.Pod.Namespace, Name: name}
	if err := r.takeClaim(t.UID, key, slices.Contains(c.Claim.Spec.AccessModes, v1.ReadWriteOncePod)); err != nil {
		return volumes.Claimed{}, err
	}
	switch s := c.Volume.Spec; {
	case s.Local != nil:
		// Only directories that are made for claims are made here.
		made := volumes.MakeNone
		if c.Volume.Annotations[claims.ProvisionedBy] == claims.Provisioner {
			made = volumes.MakeOwn
		}
		return volumes.Claimed{Dir: s.Local.Path, Make: made, Group: true}, nil
	case s.HostPath != nil:
		made := volumes.MakeParent
		if s.HostPath.Type != nil && *s.HostPath.Type == v1.HostPathDirectory {
			made = volumes.MakeNone
		}
		return volumes.Claimed{Dir: s.HostPath.Path, Make: made}, nil
	case s.NFS != nil:
		return volumes.Claimed{NFS: s.NFS, Options: s.MountOptions}, nil
	}
	return volumes.Claimed{}, errors.New("its volume is of a kind that is not served here") // checked before
}

// takeClaim notes that a pod uses a claim. Of a claim for one pod it lets only the
// first have it, until that is removed.
// Source: API reference of PersistentVolumeClaim v1, ReadWriteOncePod.
func (r *Runtime) takeClaim(uid types.UID, claim pod.Key, onePod bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	users := r.claims[claim]
	if slices.Contains(users, uid) {
		return nil
	}
	if onePod && len(users) > 0 {
		return fmt.Errorf("persistentvolumeclaim %q uses the ReadWriteOncePod access mode and is already in use by pod %s",
			claim.Name, r.nameOf(users[0]))
	}
	r.claims[claim] = append(users, uid)
	return nil
}

// hasClaim says whether a pod is among those that use a claim.
func (r *Runtime) hasClaim(uid types.UID, claim pod.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.claims[claim], uid)
}

// adoptClaims notes the claims whose volumes an earlier agent set up for a pod.
func (r *Runtime) adoptClaims(rec pod.Record) {
	if rec.Pod == nil {
		return
	}
	t := pod.Target{UID: rec.UID, Pod: rec.Pod}
	for _, v := range rec.Pod.Spec.Volumes {
		if c := v.PersistentVolumeClaim; c != nil && volumes.Present(r.volumesPod(t), v) {
			r.live(rec.UID).setName(t)
			_ = r.takeClaim(rec.UID, pod.Key{Namespace: rec.Pod.Namespace, Name: c.ClaimName}, false) // the earlier agent saw to it
		}
	}
}

// nameOf is [Runtime.podName] for who holds mu.
func (r *Runtime) nameOf(uid types.UID) string {
	if p := r.pods[uid]; p != nil {
		return p.name(uid)
	}
	return string(uid)
}

// leaveClaims notes that a pod uses no claim any more.
func (r *Runtime) leaveClaims(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for claim, users := range r.claims {
		if users = slices.DeleteFunc(users, func(u types.UID) bool { return u == uid }); len(users) == 0 {
			delete(r.claims, claim)
		} else {
			r.claims[claim] = users
		}
	}
}
