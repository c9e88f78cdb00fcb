package store

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/pod/claims"
)

func pvc(name, class string) *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
}

func pv(name string) *v1.PersistentVolume {
	return &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PersistentVolumeSpec{
		StorageClassName: "disk", AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
	}}
}

func openClaims(t *testing.T, root string, log *[]string) *Claims {
	t.Helper()
	c, err := opened(t, root, t.TempDir(), "boot", log).Claims(claims.Node{Name: "here"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// volumeOf is the volume of a claim, or why it has none.
func volumeOf(b claims.Bound, name string) string {
	c, _ := b.Claim(claims.Key{Namespace: "default", Name: name})
	if c.Volume == nil {
		return c.Message
	}
	return c.Volume.Name
}

func TestBindingsSurviveTheAgent(t *testing.T) {
	root := t.TempDir()
	in := claims.Input{Claims: []*v1.PersistentVolumeClaim{pvc("a", "disk")}, Volumes: []*v1.PersistentVolume{pv("two")}, Complete: true}
	if got := volumeOf(openClaims(t, root, nil).Bind(in), "a"); got != "two" {
		t.Fatalf("bound to %s", got)
	}
	in.Volumes = append(in.Volumes, pv("one")) // would come first
	var log []string
	if got := volumeOf(openClaims(t, root, &log).Bind(in), "a"); got != "two" || len(log) > 0 {
		t.Errorf("after a restart bound to %s; log %q", got, log)
	}
	// A file that cannot be read is set aside, and the rules hold.
	if err := os.WriteFile(filepath.Join(root, "claims.json"), []byte(`{"version":1,"bindings":[{}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := volumeOf(openClaims(t, root, &log).Bind(in), "a"); got != "one" || len(log) != 1 || !strings.Contains(log[0], "claims.json.bad-") {
		t.Errorf("with a broken file bound to %s; log %q", got, log)
	}
}

func TestDataIsDeletedAMinuteAfterItsClaimAndNotBefore(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := openClaims(t, root, nil)
		c.changed = make(chan struct{}, 1) // of this bubble
		both := claims.Input{Complete: true, Claims: []*v1.PersistentVolumeClaim{pvc("stays", claims.ClassRetain), pvc("goes", claims.ClassDelete)}}
		c.Bind(both)
		dir := filepath.Join(root, "claims", "default")
		for _, name := range []string{"stays", "goes"} {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		there := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
		used := false
		ctx, cancel := context.WithCancel(t.Context())
		go c.Reclaim(ctx, func(claims.Key) bool { return used }, func(_ context.Context, dir, name string) error {
			return os.RemoveAll(filepath.Join(dir, name))
		})
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		wait(0)
		c.Bind(claims.Input{}) // the directory of manifests is out of reach
		wait(time.Hour)
		if !there("goes") {
			t.Error("deleted although its claim may be there")
		}
		used = true
		c.Bind(claims.Input{Complete: true}) // both claims were removed
		wait(time.Hour)
		if !there("goes") {
			t.Error("deleted while a pod uses it")
		}
		used = false
		c.Bind(both) // they come back, and go again
		c.Bind(claims.Input{Complete: true})
		wait(claims.ReclaimDelay - time.Second)
		if !there("goes") {
			t.Error("deleted at once")
		}
		wait(2 * time.Second)
		if there("goes") || !there("stays") {
			t.Errorf("there: goes %v, stays %v", there("goes"), there("stays"))
		}
		if entries, err := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 || err != nil {
			t.Errorf("left over: %v %v", entries, err)
		}
		if b := c.Bound().Bindings; len(b) != 1 || b[0].Claim.Name != "stays" {
			t.Errorf("bindings: %+v", b)
		}
		// Whose directory was removed by hand is forgotten.
		if err := os.Remove(filepath.Join(dir, "stays")); err != nil {
			t.Fatal(err)
		}
		if b := c.Bind(claims.Input{Complete: true}).Bindings; len(b) != 0 {
			t.Errorf("bindings: %+v", b)
		}
		cancel()
		synctest.Wait()
	})
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"version":1,"bindings":[{"claim":{"Namespace":"a","Name":"b"},"volume":"c"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		kept, err := parseClaims(data)
		if err != nil && kept != nil {
			t.Error("an error with bindings")
		}
		claims.Bind(claims.Input{Kept: kept, Complete: true, Claims: []*v1.PersistentVolumeClaim{pvc("b", "disk")}})
	})
}
