package manifest

import (
	"os"
	"strings"
	"testing"
	"time"

	"podd/pod"
)

const shop = `apiVersion: v1
kind: Pod
metadata: {name: shop}
spec:
  containers:
  - name: app
    image: a
    env:
    - {name: A, valueFrom: {configMapKeyRef: {name: settings, key: a}}}
    - {name: P, valueFrom: {secretKeyRef: {name: login, key: password}}}
`

func settings(a string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: " + a + "}\n"
}

const login = "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: hidden}\n"

// shows waits for a set in which the pod shop has these sources: "a=1 p=hidden".
func (w *watched) shows(want string) {
	w.Helper()
	deadline := time.After(long)
	for {
		got := "no pod"
		for _, d := range w.last {
			if d.Key.Name == "shop" {
				got = sourcesText(d.Sources)
			}
		}
		if got == want {
			return
		}
		select {
		case w.last = <-w.out:
		case <-deadline:
			w.Fatalf("sources are %q, want %q; problems %v", got, want, w.w.Problems())
		}
	}
}

func sourcesText(s *pod.Sources) string {
	var b strings.Builder
	if m, found := s.ConfigMap("default", "settings"); found {
		b.WriteString("a=" + m.Data["a"])
	}
	if m, found := s.Secret("default", "login"); found {
		b.WriteString(" p=" + string(m.Data["password"]))
	}
	return b.String()
}

func TestPodsGetWhatTheyNameFromAnyFile(t *testing.T) {
	w := watch(t, newDir(t))
	w.rename("web.yaml", manifest("web", "a"))
	w.rename("shop.yaml", shop)
	w.shows("")
	w.rename("settings.yaml", settings(`"1"`)+"---\n"+login)
	w.shows("a=1 p=hidden")
	for _, d := range w.last {
		if d.Key.Name == "web" && d.Sources != nil {
			t.Error("a pod that names nothing has sources")
		}
	}
	// A change of what nobody names changes no pod.
	w.rename("other.yaml", strings.ReplaceAll(settings("x"), "settings", "other"))
	w.staysQuiet()
	w.rename("settings.yaml", settings(`"2"`))
	w.shows("a=2")
	must(t, os.Remove(w.path("settings.yaml")))
	w.shows("")
}

func TestMistakeInASourceKeepsItsLastGoodVersion(t *testing.T) {
	w := watch(t, newDir(t))
	w.rename("shop.yaml", shop+"---\n"+settings(`"1"`)+"---\n"+login)
	w.shows("a=1 p=hidden")
	w.rename("shop.yaml", shop+"---\n"+settings("3")+"---\n"+login)
	r := w.reports("data.a: expected text; found 3 without quotes")
	if !strings.Contains(r.Summary(), "ConfigMap default/settings stays as loaded at") {
		t.Errorf("summary is %q", r.Summary())
	}
	w.shows("a=1 p=hidden")
	w.rename("shop.yaml", shop+"---\n"+settings(`"4"`)+"---\n"+strings.Replace(login, "hidden", "[hidden]", 1))
	w.shows("a=4 p=hidden")
	for _, p := range w.reports("stringData.password: expected text").Problems {
		if strings.Contains(p.String(), "hidden") {
			t.Errorf("a problem tells what a Secret holds: %s", p)
		}
	}
	// A mistake in an object of another kind and the same name keeps nothing.
	w.rename("shop.yaml", shop+"---\n"+strings.Replace(login, "name: login", "name: settings", 1)+"data: 1\n")
	w.shows("")
}

func TestSourcesOfOneNameAreReportedAndTheFirstHolds(t *testing.T) {
	w := watch(t, newDir(t))
	w.rename("b.yaml", shop+"---\n"+settings("b"))
	w.shows("a=b")
	w.rename("a.yaml", settings("a"))
	w.shows("a=a")
	w.reports("b.yaml:12:1: ConfigMap default/settings is given twice; the one at " + w.path("a.yaml") + ":1 holds")
	must(t, os.Remove(w.path("a.yaml")))
	w.shows("a=b")
	w.isClean()
}

func TestImmutableSourceIsNotChanged(t *testing.T) {
	w := watch(t, newDir(t))
	w.rename("shop.yaml", shop)
	w.rename("settings.yaml", settings("a")+"immutable: true\n")
	w.shows("a=a")
	w.rename("settings.yaml", settings("b")+"immutable: true\n")
	w.reports("settings.yaml:1:1: immutable: ConfigMap default/settings is immutable and is not changed; remove it first, or give it another name")
	w.shows("a=a")
	w.rename("settings.yaml", settings("a"))
	w.reports("is immutable and is not changed")
	must(t, os.Remove(w.path("settings.yaml")))
	w.shows("")
	w.rename("settings.yaml", settings("b"))
	w.shows("a=b")
}

func TestSecretThatOthersCanReadIsWarnedAbout(t *testing.T) {
	w := watch(t, newDir(t))
	w.rename("login.yaml", login)
	w.reports("login.yaml:1:1: warning: others than root can read Secret default/login here: the file's mode is 0644; chmod it to 0600")
	if problems, _, err := Check([]string{w.path("login.yaml")}); err != nil || len(problems) != 1 || !problems[0].Warning {
		t.Errorf("Check says %v, %v", problems, err)
	}
	must(t, os.Chmod(w.path("login.yaml"), 0o600))
	w.isClean()
	w.rename("settings.yaml", settings("a"))
	w.staysClean()
}

// staysClean asserts that no problem appears.
func (w *watched) staysClean() {
	w.Helper()
	time.Sleep(quiet)
	if p := w.w.Problems(); len(p) > 0 {
		w.Fatalf("problems: %v", p)
	}
}

func TestSourcesOfTheLastAgentStandInForABrokenFile(t *testing.T) {
	dir := newDir(t)
	r := Parse(dir+"/settings.yaml", []byte(settings("old")+"---\n"+login))
	must(t, os.WriteFile(dir+"/settings.yaml", []byte("{"), 0o600))
	must(t, os.WriteFile(dir+"/shop.yaml", []byte(shop), 0o600))
	var kept []pod.Source
	w := watch(t, dir, func(c *Config) {
		c.LoadedSources = r.Sources
		c.Keep = func(s []pod.Source) { kept = s }
	})
	w.shows("a=old p=hidden")
	w.rename("settings.yaml", settings("new"))
	w.shows("a=new")
	if len(kept) != 1 || kept[0].ConfigMap.Data["a"] != "new" {
		t.Errorf("to be kept: %v", kept)
	}
}

// What is in force must not depend on the order in which files were read.
func TestSourcesAreListedInTheOrderOfTheirNames(t *testing.T) {
	var all []loadedSource
	for _, name := range []string{"b", "a", "c"} {
		r := Parse("x.yaml", []byte(strings.ReplaceAll(settings("x"), "settings", name)+"---\n"+strings.ReplaceAll(login, "login", name)))
		for _, s := range r.Sources {
			all = append(all, loadedSource{source: s})
		}
	}
	set, _ := combineSources(all)
	var got []string
	for _, s := range sourceList(set) {
		got = append(got, s.String())
	}
	want := "ConfigMap default/a, ConfigMap default/b, ConfigMap default/c, Secret default/a, Secret default/b, Secret default/c"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}
