package images

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPullPolicies(t *testing.T) {
	f := plainRegistry(t)
	img := stacked(t, 1)
	digest := push(t, f.host+"/app:1", img)
	name := f.host + "/app:1"
	for _, test := range []struct {
		title, ref, policy string
		present            bool
		pulled             bool
		reason, message    string
	}{
		{"Always pulls what is absent", name, "Always", false, true, "", "Successfully pulled image \"" + name + "\" in "},
		{"Always asks again for what is present", name, "Always", true, true, "", "Successfully pulled image"},
		{"IfNotPresent pulls what is absent", name, "IfNotPresent", false, true, "", "Successfully pulled image"},
		{"IfNotPresent takes what is present", name, "IfNotPresent", true, false, "", `Container image "` + name + `" already present on machine and can be accessed by the pod`},
		{"no policy is IfNotPresent", name, "", true, false, "", "already present"},
		{"Never takes what is present", name, "Never", true, false, "", "already present"},
		{"Never does not pull", name, "Never", false, false, ReasonNeverPull, `Container image "` + name + `" is not present with pull policy of Never`},
		{"a digest is found", f.host + "/app@" + digest.String(), "IfNotPresent", true, false, "", "already present"},
		{"a missing image", f.host + "/none:1", "IfNotPresent", false, false, ReasonPull, `Failed to pull image "` + f.host + `/none:1": registry ` + f.host + ` has no image`},
		{"a malformed name", "a b", "Never", false, false, ReasonInvalidName, `Failed to apply default image tag "a b": `},
	} {
		t.Run(test.title, func(t *testing.T) {
			s := testStore(t)
			if test.present {
				if _, err := s.Pull(t.Context(), name, PullOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			f.intercept(nil)
			began := 0
			now := time.Now().Add(time.Hour).Truncate(time.Second)
			result, err := s.Ensure(t.Context(), Request{Ref: test.ref, Policy: test.policy, Pulling: func() { began++ }}, now)
			if test.reason != "" {
				var failed *EnsureError
				if !errors.As(err, &failed) || failed.Reason != test.reason || !strings.HasPrefix(failed.Message, test.message) {
					t.Errorf("error is %v, want %s with %q", err, test.reason, test.message)
				}
				if asked := f.requests("/"); test.reason != ReasonPull && asked != 0 {
					t.Errorf("the registry was asked %d times", asked)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if result.Pulled != test.pulled || (began == 1) != test.pulled || (f.requests("/") > 0) != test.pulled {
				t.Errorf("pulled %v, begun %d times, registry asked %d times; want a pull: %v", result.Pulled, began, f.requests("/"), test.pulled)
			}
			if got := result.Message(test.ref); !strings.Contains(got, test.message) {
				t.Errorf("message is %q, want %q", got, test.message)
			}
			if result.ImageRef != test.ref || result.ImageID != f.host+"/app@"+digest.String() || result.Size == 0 || result.Waited < result.Took {
				t.Errorf("result is %+v", result)
			}
			if found, err := s.Find(name); err != nil || !found.LastUsed.Equal(now) {
				t.Errorf("last used is %v (%v), want %v", found.LastUsed, err, now)
			}
		})
	}
}

func TestLoadedImageIsKnownByItsID(t *testing.T) {
	s := testStore(t)
	img := load(t, s, stacked(t, 1), "example.com/app:1")
	result, err := s.Ensure(t.Context(), Request{Ref: "example.com/app:1"}, time.Now())
	if err != nil || result.ImageID != img.ID || result.ImageRef != "example.com/app:1" || result.Pulled {
		t.Errorf("result is %+v (%v)", result, err)
	}
}

func TestAlwaysSaysThatTheImageIsHere(t *testing.T) {
	s := testStore(t)
	load(t, s, stacked(t, 1), "127.0.0.1:1/app:1")
	_, err := s.Ensure(t.Context(), Request{Ref: "127.0.0.1:1/app:1", Policy: "Always"}, time.Now())
	var failed *EnsureError
	if !errors.As(err, &failed) || failed.Reason != ReasonRegistryNotThere || !strings.Contains(failed.Message, "the image is present on this machine") ||
		!strings.HasPrefix(failed.Message, "image pull failed for 127.0.0.1:1/app:1 because the registry is unavailable: ") {
		t.Errorf("error is %v", err)
	}
}

func TestSameImageIsPulledOnceForAll(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/app:1", stacked(t, 2))
	release := make(chan struct{})
	f.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if isBlob(r) {
			<-release
		}
		return false
	})
	s := testStore(t)
	var group sync.WaitGroup
	var began atomic.Int32
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { // the first to come leaves early; the others get their image
		_, err := s.Ensure(impatient, Request{Ref: f.host + "/app:1", Pulling: func() { began.Add(1) }}, time.Now())
		left <- err
	}()
	waitFor(t, func() bool { return began.Load() == 1 })
	for range 5 {
		group.Go(func() {
			if _, err := s.Ensure(t.Context(), Request{Ref: f.host + "/app:1", Pulling: func() { began.Add(1) }}, time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { return began.Load() == 6 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(release)
	group.Wait()
	if n := f.requests("GET /v2/app/manifests/1"); n != 1 {
		t.Errorf("the manifest was asked for %d times", n)
	}
}

func TestParallelPullsAreLimitedAndWaitingIsCounted(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/a:1", stacked(t, 1))
	push(t, f.host+"/b:1", stacked(t, 2))
	release := make(chan struct{})
	f.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v2/a/") {
			<-release
		}
		return false
	})
	s := testStore(t, func(c *Config) { c.MaxParallelPulls = 1 })
	began := make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := s.Ensure(t.Context(), Request{Ref: f.host + "/a:1", Pulling: func() { close(began) }}, time.Now())
		first <- err
	}()
	<-began
	var bBegan atomic.Bool
	type answer struct {
		Result
		err error
	}
	second := make(chan answer, 1)
	go func() {
		r, err := s.Ensure(t.Context(), Request{Ref: f.host + "/b:1", Pulling: func() { bBegan.Store(true) }}, time.Now())
		second <- answer{r, err}
	}()
	time.Sleep(300 * time.Millisecond)
	if bBegan.Load() || f.requests("/v2/b/") != 0 {
		t.Error("the second pull began before its turn")
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if r := <-second; r.err != nil || r.Waited < 250*time.Millisecond || r.Took > r.Waited {
		t.Errorf("took %v, waited %v (%v)", r.Took, r.Waited, r.err)
	}
}

func TestPullsAboveTheRateFail(t *testing.T) {
	f := plainRegistry(t)
	push(t, f.host+"/a:1", stacked(t, 1))
	s := testStore(t, func(c *Config) { c.QPS, c.Burst = 0.001, 2 })
	for i := range 3 {
		_, err := s.Ensure(t.Context(), Request{Ref: f.host + "/a:1", Policy: "Always"}, time.Now())
		var failed *EnsureError
		if i < 2 && err != nil {
			t.Errorf("pull %d: %v", i, err)
		}
		if i == 2 && (!errors.As(err, &failed) || failed.Reason != ReasonPull || !strings.HasPrefix(failed.Err.Error(), "pull QPS exceeded")) {
			t.Errorf("pull %d: %v", i, err)
		}
	}
}
