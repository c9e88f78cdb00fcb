package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func ofClaim(readOnly bool) v1.Volume {
	return v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{
		PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly}}}
}

// bound gives the pod a claim that means c.
func (p Pod) bound(c Claimed) Pod {
	p.Claims = func(*v1.PersistentVolumeClaimVolumeSource) (Claimed, error) { return c, nil }
	return p
}

func TestAClaimsDataOutlivesThePod(t *testing.T) {
	p := newPod(t, true)
	dir := filepath.Join(filepath.Dir(filepath.Dir(p.Dir)), "claims", "default", "c")
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	v := ofClaim(false)
	if Present(p, v) {
		t.Error("present before it was set up")
	}
	bound := p.bound(Claimed{Dir: dir, Make: MakeOwn, Group: true})
	must(t, Ensure(t.Context(), bound, v))
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	if st.Mode&0o7777 != 0o777 {
		t.Errorf("mode %o", st.Mode&0o7777)
	}
	// From now on nobody is asked what the claim means.
	if !Present(p, v) {
		t.Error("not present")
	}
	must(t, Ensure(t.Context(), p, v))
	must(t, os.Mkdir(dir+"/inner", 0o755))
	must(t, unix.Mount("podd-test", dir+"/inner", "tmpfs", 0, ""))
	defer unix.Unmount(dir+"/inner", 0)
	must(t, os.WriteFile(dir+"/inner/host", []byte("host's"), 0o600))
	e := newElsewhere(t)
	in := e.attach(openTree(t, p, v, at("/data"), ""))
	frozen := e.attach(openTree(t, p, ofClaim(true), at("/data"), ""))
	e.do(func() {
		must(t, os.WriteFile(in+"/kept", []byte("kept"), 0o600))
		if err := os.WriteFile(frozen+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a read-only claim: %v", err)
		}
		if _, err := os.Stat(in + "/inner/host"); err != nil {
			t.Errorf("what is mounted in the directory: %v", err)
		}
	})
	must(t, os.WriteFile(dir+"/big", make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Dir(dir)+"/other", make([]byte, 8<<20), 0o600))
	must(t, os.WriteFile(dir+"/inner/big", make([]byte, 8<<20), 0o600))
	byPath, err := MeasureDir(t.Context(), dir)
	must(t, err)
	byPod, err := Measure(t.Context(), p, v)
	must(t, err)
	// What else lies on the file system, and what is mounted inside, is not counted.
	for _, u := range []Usage{byPath, byPod} {
		if u.UsedBytes < 1<<20 || u.UsedBytes > 2<<20 || u.CapacityBytes != 256<<20 {
			t.Errorf("measured %+v", u)
		}
	}
	must(t, Remove(t.Context(), p))
	for file, want := range map[string]string{"/kept": "kept", "/inner/host": "host's"} {
		if got, err := os.ReadFile(dir + file); string(got) != want {
			t.Errorf("%s after the pod: %q, %v", file, got, err)
		}
	}
}

func TestTheGroupOfAClaimFollowsThePolicy(t *testing.T) {
	gid := int64(2000)
	p := newPod(t, false)
	p.FSGroup = &gid
	for _, c := range []struct {
		name     string
		policy   v1.PodFSGroupChangePolicy
		claimed  Claimed
		readOnly bool
		root     os.FileMode
		want     uint32 // the file's group
	}{
		{"Always", v1.FSGroupChangeAlways, Claimed{Group: true}, false, 0o2770, 2000},
		{"none given", "", Claimed{Group: true}, false, 0o2770, 2000},
		{"OnRootMismatch, as wanted", v1.FSGroupChangeOnRootMismatch, Claimed{Group: true}, false, 0o2770, 7},
		{"OnRootMismatch, no setgid", v1.FSGroupChangeOnRootMismatch, Claimed{Group: true}, false, 0o770, 2000},
		{"a hostPath", v1.FSGroupChangeAlways, Claimed{}, false, 0o2770, 7},
		{"read-only", v1.FSGroupChangeAlways, Claimed{Group: true}, true, 0o2770, 7},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/file", nil, 0o600))
		must(t, os.Chown(dir+"/file", 0, 7))
		must(t, os.Chown(dir, 0, 2000))
		must(t, unix.Chmod(dir, uint32(c.root.Perm())|uint32(c.root&0o7000)))
		c.claimed.Dir = dir
		p.FSGroupPolicy = c.policy
		must(t, Ensure(t.Context(), p.bound(c.claimed), ofClaim(c.readOnly)))
		var st unix.Stat_t
		must(t, unix.Stat(dir+"/file", &st))
		if st.Gid != c.want {
			t.Errorf("%s: the file's group is %d, want %d", c.name, st.Gid, c.want)
		}
		must(t, Remove(t.Context(), p))
	}
}

func TestADirectoryThatNobodyMakesMustBeThere(t *testing.T) {
	p := newPod(t, false)
	missing := Claimed{Dir: t.TempDir() + "/missing"}
	if err := Ensure(t.Context(), p.bound(missing), ofClaim(false)); err == nil || !strings.Contains(err.Error(), `volume "data": `+missing.Dir+" is not a directory") {
		t.Errorf("missing: %v", err)
	}
	if missing.There() || Present(p, ofClaim(false)) {
		t.Error("there before it is")
	}
	must(t, os.Mkdir(missing.Dir, 0o755))
	if !missing.There() {
		t.Error("not seen")
	}
	refused := errors.New("not bound")
	p.Claims = func(*v1.PersistentVolumeClaimVolumeSource) (Claimed, error) { return Claimed{}, refused }
	if err := Ensure(t.Context(), p, ofClaim(false)); err != refused {
		t.Errorf("the reason is not given as it is: %v", err)
	}
}
