package container

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// effective returns a container's security context with the pod's values where
// the container has none of its own.
type effective struct {
	user, group *int64
	nonRoot     bool
}

func effectiveUser(pod *v1.Pod, c *v1.Container) effective {
	var e effective
	if p := pod.Spec.SecurityContext; p != nil {
		e.user, e.group = p.RunAsUser, p.RunAsGroup
		e.nonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			e.user = s.RunAsUser
		}
		if s.RunAsGroup != nil {
			e.group = s.RunAsGroup
		}
		if s.RunAsNonRoot != nil {
			e.nonRoot = *s.RunAsNonRoot
		}
	}
	return e
}

// identity is who a container's process is, and where it is at home.
type identity struct {
	specs.User
	home string
}

// processIdentity decides who runs. The group part of the image's USER is not used,
// as under a kubelet.
func processIdentity(in Input) (identity, error) {
	want := effectiveUser(in.Pod, in.Container)
	imageUser, _, _ := strings.Cut(in.Image.User, ":")

	if err := checkNonRoot(in, want, imageUser); err != nil {
		return identity{}, err
	}
	name := imageUser
	switch {
	case want.user != nil:
		name = strconv.FormatInt(*want.user, 10)
	case imageUser == "":
		name = "0"
	}

	passwd, err := readOptional(in, "/etc/passwd")
	if err != nil {
		return identity{}, err
	}
	groups, err := readOptional(in, "/etc/group")
	if err != nil {
		return identity{}, err
	}
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, passwd, groups)
	if err != nil {
		return identity{}, createError("%w", err)
	}
	gid := int64(found.Gid)
	if want.group != nil {
		gid = *want.group
	}

	ids := []int64{gid}
	supplemental := in.Pod.Spec.SecurityContext
	if supplemental == nil || supplemental.SupplementalGroupsPolicy == nil ||
		*supplemental.SupplementalGroupsPolicy != v1.SupplementalGroupsPolicyStrict {
		for _, g := range found.Sgids {
			ids = append(ids, int64(g))
		}
	}
	if supplemental != nil {
		ids = append(ids, supplemental.SupplementalGroups...)
		if supplemental.FSGroup != nil {
			ids = append(ids, *supplemental.FSGroup)
		}
	}

	who := identity{home: found.Home}
	if who.home == "" {
		who.home = "/"
	}
	if who.UID, err = id("user", int64(found.Uid)); err != nil {
		return identity{}, err
	}
	for _, g := range ids {
		n, err := id("group", g)
		if err != nil {
			return identity{}, err
		}
		if !slices.Contains(who.AdditionalGids, n) {
			who.AdditionalGids = append(who.AdditionalGids, n)
		}
	}
	who.GID = who.AdditionalGids[0]
	return who, nil
}

// checkNonRoot enforces runAsNonRoot, in the kubelet's words.
func checkNonRoot(in Input, want effective, imageUser string) error {
	if !want.nonRoot {
		return nil
	}
	pod := in.Pod.Name + "_" + in.Pod.Namespace + "(" + string(in.Pod.UID) + ")"
	if want.user != nil {
		if *want.user == 0 {
			return configError("container's runAsUser breaks non-root policy (pod: %q, container: %s)", pod, in.Container.Name)
		}
		return nil
	}
	uid, err := strconv.ParseInt(imageUser, 10, 64)
	switch {
	case imageUser == "" || err == nil && uid == 0:
		return configError("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", pod, in.Container.Name)
	case err != nil:
		return configError("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)",
			imageUser, pod, in.Container.Name)
	}
	return nil
}

// id checks the range that Kubernetes allows for user and group ids.
func id(kind string, n int64) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, configError("%s id %d: expected 0 to %d", kind, n, math.MaxInt32)
	}
	return uint32(n), nil
}

// readOptional returns an empty file for one that the image lacks.
func readOptional(in Input, path string) (io.Reader, error) {
	if in.ReadFile == nil {
		return bytes.NewReader(nil), nil
	}
	text, err := in.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, createError("cannot read %s of the image: %w", path, err)
	}
	return bytes.NewReader(text), nil
}
