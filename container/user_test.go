package container

import (
	"errors"
	"io/fs"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

const (
	passwdFile = "root:x:0:0:root:/root:/bin/sh\n" +
		"app:x:1000:1001:An app:/home/app:/bin/sh\n" +
		"nohome:x:1002:1002:::\n" +
		"strange:x:-5:-5::/:\n"
	groupFile = "root:x:0:\n# comment\nstaff:x:50:app,other\naudio:x:29:app\nwheel:x:10:root\n"
)

// imageFiles reads from a map of paths.
func imageFiles(files map[string]string) func(string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	}
}

func TestIdentity(t *testing.T) {
	files := imageFiles(map[string]string{"/etc/passwd": passwdFile, "/etc/group": groupFile})
	pod := func(s v1.PodSecurityContext) *v1.PodSecurityContext { return &s }
	own := func(s v1.SecurityContext) *v1.SecurityContext { return &s }
	for _, tt := range []struct {
		name      string
		imageUser string
		pod       *v1.PodSecurityContext
		own       *v1.SecurityContext
		bare      bool // the image has neither file
		uid, gid  uint32
		groups    []uint32
		home      string
		reason    string
		problem   string
	}{
		{name: "no USER is root", groups: []uint32{0, 10}, home: "/root"},
		{name: "no USER in an image without files", bare: true, groups: []uint32{0}, home: "/"},
		{name: "a name is looked up", imageUser: "app", uid: 1000, gid: 1001, groups: []uint32{1001, 50, 29}, home: "/home/app"},
		{name: "a number is looked up too", imageUser: "1000", uid: 1000, gid: 1001, groups: []uint32{1001, 50, 29}, home: "/home/app"},
		{name: "a number needs no entry", imageUser: "4242", uid: 4242, groups: []uint32{0}, home: "/"},
		{name: "the group part of USER is dropped", imageUser: "app:audio", uid: 1000, gid: 1001, groups: []uint32{1001, 50, 29}, home: "/home/app"},
		{name: "the group part of a numeric USER is dropped", imageUser: "4242:99", uid: 4242, groups: []uint32{0}, home: "/"},
		{name: "an entry without a home", imageUser: "nohome", uid: 1002, gid: 1002, groups: []uint32{1002}, home: "/"},
		{name: "an unknown name", imageUser: "ghost", reason: ReasonCreate, problem: "unable to find user ghost: no matching entries in passwd file"},
		{name: "a name in an image without files", imageUser: "app", bare: true, reason: ReasonCreate,
			problem: "unable to find user app: no matching entries in passwd file"},
		{name: "a user id out of range", imageUser: "4294967296", reason: ReasonCreate, problem: "uids and gids must be in range 0-2147483647"},
		{name: "an entry out of range", imageUser: "strange", reason: ReasonConfig, problem: "user id -5: expected 0 to 2147483647"},
		{name: "runAsUser of the pod", imageUser: "app", pod: pod(v1.PodSecurityContext{RunAsUser: ptr(int64(0))}),
			groups: []uint32{0, 10}, home: "/root"},
		{name: "runAsUser of the container goes first", pod: pod(v1.PodSecurityContext{RunAsUser: ptr(int64(7))}),
			own: own(v1.SecurityContext{RunAsUser: ptr(int64(1000))}), uid: 1000, gid: 1001, groups: []uint32{1001, 50, 29}, home: "/home/app"},
		{name: "runAsGroup alone applies to the image's user", imageUser: "app", own: own(v1.SecurityContext{RunAsGroup: ptr(int64(77))}),
			uid: 1000, gid: 77, groups: []uint32{77, 50, 29}, home: "/home/app"},
		{name: "runAsGroup without files", bare: true, pod: pod(v1.PodSecurityContext{RunAsUser: ptr(int64(5)), RunAsGroup: ptr(int64(6))}),
			uid: 5, gid: 6, groups: []uint32{6}, home: "/"},
		{name: "supplemental groups and fsGroup", imageUser: "app",
			pod: pod(v1.PodSecurityContext{SupplementalGroups: []int64{50, 60}, FSGroup: ptr(int64(70))}),
			uid: 1000, gid: 1001, groups: []uint32{1001, 50, 29, 60, 70}, home: "/home/app"},
		{name: "policy Strict ignores the image's groups", imageUser: "app",
			pod: pod(v1.PodSecurityContext{SupplementalGroups: []int64{60}, SupplementalGroupsPolicy: ptr(v1.SupplementalGroupsPolicyStrict)}),
			uid: 1000, gid: 1001, groups: []uint32{1001, 60}, home: "/home/app"},
		{name: "non-root: numeric user of the image", imageUser: "1000", own: own(v1.SecurityContext{RunAsNonRoot: ptr(true)}),
			uid: 1000, gid: 1001, groups: []uint32{1001, 50, 29}, home: "/home/app"},
		{name: "non-root: runAsUser decides, whatever the image names", imageUser: "root",
			pod: pod(v1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(9))}), uid: 9, groups: []uint32{0}, home: "/"},
		{name: "non-root: the container may lift it", own: own(v1.SecurityContext{RunAsNonRoot: ptr(false)}),
			pod: pod(v1.PodSecurityContext{RunAsNonRoot: ptr(true)}), groups: []uint32{0, 10}, home: "/root"},
		{name: "non-root: runAsUser 0", pod: pod(v1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(0))}), reason: ReasonConfig,
			problem: `container's runAsUser breaks non-root policy (pod: "web_shop(uid-1)", container: app)`},
		{name: "non-root: no USER", own: own(v1.SecurityContext{RunAsNonRoot: ptr(true)}), reason: ReasonConfig,
			problem: `container has runAsNonRoot and image will run as root (pod: "web_shop(uid-1)", container: app)`},
		{name: "non-root: USER 0", imageUser: "0:5", own: own(v1.SecurityContext{RunAsNonRoot: ptr(true)}), reason: ReasonConfig,
			problem: `container has runAsNonRoot and image will run as root (pod: "web_shop(uid-1)", container: app)`},
		{name: "non-root: a name cannot be verified", imageUser: "app", own: own(v1.SecurityContext{RunAsNonRoot: ptr(true)}), reason: ReasonConfig,
			problem: `container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: "web_shop(uid-1)", container: app)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input()
			in.Image.User = tt.imageUser
			in.Pod.Spec.SecurityContext = tt.pod
			in.Container.SecurityContext = tt.own
			if !tt.bare {
				in.ReadFile = files
			}
			spec, err := Spec(in)
			wantError(t, err, tt.reason, tt.problem)
			if err != nil {
				return
			}
			u := spec.Process.User
			if u.UID != tt.uid || u.GID != tt.gid || !slices.Equal(u.AdditionalGids, tt.groups) {
				t.Errorf("got %d:%d %v, want %d:%d %v", u.UID, u.GID, u.AdditionalGids, tt.uid, tt.gid, tt.groups)
			}
			if !slices.Contains(spec.Process.Env, "HOME="+tt.home) {
				t.Errorf("got %q, want HOME=%s", spec.Process.Env, tt.home)
			}
		})
	}
}

func TestAnUnreadablePasswdFileIsNoMissingOne(t *testing.T) {
	in := input()
	in.ReadFile = func(string) ([]byte, error) { return nil, errors.New("too many links") }
	_, err := Spec(in)
	wantError(t, err, ReasonCreate, "cannot read /etc/passwd of the image: too many links")
}

func FuzzIdentity(f *testing.F) {
	f.Add("app", passwdFile, groupFile)
	f.Add("1000:5", "a:b", "::::")
	f.Fuzz(func(t *testing.T, user, passwd, groups string) {
		in := input()
		in.Image.User = user
		in.ReadFile = imageFiles(map[string]string{"/etc/passwd": passwd, "/etc/group": groups})
		who, err := processIdentity(in)
		if err != nil {
			return
		}
		if who.UID > 1<<31-1 || who.GID > 1<<31-1 || who.home == "" || !slices.Contains(who.AdditionalGids, who.GID) {
			t.Errorf("%+v", who)
		}
		in.Container.SecurityContext = &v1.SecurityContext{RunAsNonRoot: ptr(true)}
		if who, err := processIdentity(in); err == nil && who.UID == 0 {
			t.Errorf("runAsNonRoot with USER %q and %q runs as root", user, passwd)
		}
	})
}
