package rest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watching is a watch over a real connection.
type watching struct {
	t     *testing.T
	lines *bufio.Reader
	body  io.ReadCloser
}

func startWatch(t *testing.T, url string, headers ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != 200 {
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("watch: %d %s", answer.StatusCode, body)
	}
	return &watching{t: t, lines: bufio.NewReader(answer.Body), body: answer.Body}
}

// next returns the next event.
func (w *watching) next() map[string]any {
	w.t.Helper()
	line, err := w.lines.ReadBytes('\n')
	if err != nil {
		w.t.Fatalf("watch ended: %v %s", err, line)
	}
	var event map[string]any
	if err := json.Unmarshal(line, &event); err != nil {
		w.t.Fatalf("%v: %s", err, line)
	}
	return event
}

// want reads one event for each line: the type, the name, and pairs of path and
// value in the object, as "ADDED web data.a=1".
func (w *watching) want(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		e := w.next()
		parts := strings.Fields(line)
		got := fmt.Sprintf("%v %s", e["type"], valueAt(e, "object.metadata.name"))
		if got != parts[0]+" "+parts[1] {
			text, _ := json.Marshal(e)
			w.t.Fatalf("got %s, want %s", text, line)
		}
		for _, pair := range parts[2:] {
			path, value, _ := strings.Cut(pair, "=")
			if got := valueAt(e, "object."+path); got != value {
				w.t.Errorf("%s: %s is %s", line, path, got)
			}
		}
	}
}

func (w *watching) wantEnd() {
	w.t.Helper()
	if line, err := w.lines.ReadBytes('\n'); err != io.EOF {
		w.t.Errorf("want the end, got %s, %v", line, err)
	}
}

// listen serves s on a real socket.
func listen(t *testing.T, s *Server) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL
}

func TestAWatchGoesOnWhereAListEnded(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	do(t, s, "POST", configMapsPath, configMapNamed("before")).want(t, 201)
	version := do(t, s, "GET", configMapsPath, nil).at("metadata.resourceVersion")
	do(t, s, "POST", configMapsPath, configMapNamed("between", "a", "1")).want(t, 201)
	w := startWatch(t, url+configMapsPath+"?watch=true&resourceVersion="+version)
	w.want("ADDED between data.a=1 kind=ConfigMap apiVersion=v1")
	do(t, s, "PUT", configMapsPath+"/between", configMapNamed("between", "a", "2")).want(t, 200)
	do(t, s, "POST", "/api/v1/namespaces/kube-system/configmaps", configMapNamed("elsewhere")).want(t, 201)
	do(t, s, "DELETE", configMapsPath+"/before", nil).want(t, 200)
	w.want("MODIFIED between data.a=2", "DELETED before")
}

// HTTP/2 ends a stream whose deadline passes, and HTTP/1 the answer that comes after: in
// between events, and when a request comes, there is none.
func TestAnIdleWatchHasNoDeadline(t *testing.T) {
	s := newServer(t, nil)
	for _, version := range []int{1, 2} {
		deadlines := make(chan time.Time, 1000)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != version {
				t.Errorf("HTTP/%d; want %d", r.ProtoMajor, version)
			}
			s.ServeHTTP(tellingWriter{w, deadlines}, r)
		}))
		server.EnableHTTP2 = version == 2
		server.StartTLS()
		t.Cleanup(server.Close)
		answer, err := server.Client().Get(server.URL + configMapsPath + "?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		w := &watching{t: t, lines: bufio.NewReader(answer.Body)}
		do(t, s, "POST", configMapsPath, configMapNamed(fmt.Sprint("c", version))).want(t, 201)
		w.want(fmt.Sprint("ADDED c", version))
		last := time.Now()
		for within := time.After(time.Minute); !last.IsZero(); {
			select {
			case last = <-deadlines:
			case <-within:
				t.Fatalf("HTTP/%d: the last deadline is %v", version, last)
			}
			for len(deadlines) > 0 {
				last = <-deadlines
			}
		}
	}
}

// tellingWriter tells which deadlines are set.
type tellingWriter struct {
	http.ResponseWriter
	deadlines chan time.Time
}

func (t tellingWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t tellingWriter) SetWriteDeadline(at time.Time) error {
	t.deadlines <- at
	return http.NewResponseController(t.ResponseWriter).SetWriteDeadline(at)
}

func TestAWatchWithoutAVersionBeginsWithWhatThereIs(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	do(t, s, "POST", configMapsPath, configMapNamed("one")).want(t, 201)
	for _, query := range []string{"", "&resourceVersion=", "&resourceVersion=0"} {
		w := startWatch(t, url+configMapsPath+"?watch=1"+query)
		w.want("ADDED one")
		do(t, s, "POST", configMapsPath, configMapNamed("two")).want(t, 201)
		do(t, s, "DELETE", configMapsPath+"/two", nil).want(t, 200)
		w.want("ADDED two", "DELETED two")
	}
	w := startWatch(t, url+configMapsPath+"?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
	do(t, s, "POST", configMapsPath, configMapNamed("three")).want(t, 201)
	w.want("ADDED three")
}

// What kubectl wait and delete, and every informer, send first.
func TestAWatchListSaysWhereTheBeginningEnds(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	do(t, s, "POST", configMapsPath, configMapNamed("web")).want(t, 201)
	do(t, s, "POST", configMapsPath, configMapNamed("other")).want(t, 201)
	version := do(t, s, "GET", configMapsPath, nil).at("metadata.resourceVersion")
	for _, form := range []string{"application/json", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"} {
		w := startWatch(t, url+configMapsPath+"?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dweb&timeoutSeconds=300", "Accept", form)
		kind := "ConfigMap"
		if strings.Contains(form, "as=") {
			kind = "PartialObjectMetadata"
		}
		w.want("ADDED web kind="+kind, "BOOKMARK - kind="+kind+" metadata.annotations.k8s~io/initial-events-end=true metadata.resourceVersion="+version)
	}
	none := startWatch(t, url+"/api/v1/namespaces/default/secrets?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	none.want("BOOKMARK - kind=Secret metadata.annotations.k8s~io/initial-events-end=true")
}

func TestASelectorTurnsChangesIntoComingAndGoing(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	labelled := func(label string) string {
		return strings.Replace(configMapNamed("web", "v", label), `"metadata":{`, `"metadata":{"labels":{"app":"`+label+`"},`, 1)
	}
	do(t, s, "POST", configMapsPath, labelled("a")).want(t, 201)
	w := startWatch(t, url+configMapsPath+"?watch=1&labelSelector=app%3Db")
	do(t, s, "PUT", configMapsPath+"/web", labelled("b")).want(t, 200)
	w.want("ADDED web data.v=b")
	version := do(t, s, "PUT", configMapsPath+"/web", labelled("c")).want(t, 200).at("metadata.resourceVersion")
	w.want("DELETED web data.v=b metadata.resourceVersion=" + version) // the last state that the client could see
	do(t, s, "PUT", configMapsPath+"/web", labelled("d")).want(t, 200)
	do(t, s, "PUT", configMapsPath+"/web", labelled("b")).want(t, 200)
	do(t, s, "DELETE", configMapsPath+"/web", nil).want(t, 200)
	w.want("ADDED web data.v=b", "DELETED web data.v=b")
}

func TestAWatchEndsAtItsTimeWithABookmark(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	do(t, s, "POST", configMapsPath, configMapNamed("web")).want(t, 201)
	w := startWatch(t, url+configMapsPath+"?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")
	w.want("ADDED web")
	version := do(t, s, "POST", "/api/v1/namespaces/kube-system/configmaps", configMapNamed("elsewhere")).want(t, 201).at("metadata.resourceVersion")
	w.want("BOOKMARK - kind=ConfigMap metadata.annotations=- metadata.resourceVersion=" + version)
	w.wantEnd()
}

func TestWhatIsTooOldIsAnErrorOfTheWatch(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	w := startWatch(t, url+configMapsPath+"?watch=1&resourceVersion=1")
	w.want("ERROR - kind=Status code=410 reason=Expired")
	w.wantEnd()
}

func TestWatchArgumentsThatDoNotFitAreRefused(t *testing.T) {
	s := newServer(t, nil)
	for query, message := range map[string]string{
		"sendInitialEvents=true":                            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
		"sendInitialEvents=true&resourceVersionMatch=Exact": "resourceVersionMatch: Unsupported value",
		"resourceVersionMatch=NotOlderThan":                 "resourceVersionMatch: Forbidden",
		"resourceVersion=abc":                               "resourceVersion: Invalid value",
	} {
		do(t, s, "GET", configMapsPath+"?watch=1&"+query, nil).wantStatus(t, 422, "Invalid", message)
	}
	do(t, s, "GET", configMapsPath+"?watch=1&timeoutSeconds=x", nil).wantStatus(t, 400, "BadRequest", "timeoutSeconds")
	do(t, s, "GET", configMapsPath+"?watch=1", nil, "Accept", "application/yaml").wantStatus(t, 406, "NotAcceptable", "")
	do(t, s, "GET", configMapsPath+"?sendInitialEvents=true", nil).wantStatus(t, 422, "Invalid", "sendInitialEvents is forbidden for list")
}

// kubectl get -w.
func TestAWatchOfTablesHasColumnsOnce(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	do(t, s, "POST", configMapsPath, configMapNamed("one")).want(t, 201)
	do(t, s, "POST", configMapsPath, configMapNamed("two")).want(t, 201)
	w := startWatch(t, url+configMapsPath+"?watch=1", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	w.want("ADDED - kind=Table apiVersion=meta.k8s.io/v1 object.columnDefinitions.0.name=- columnDefinitions.0.name=Name rows.0.cells.0=one rows.0.object.kind=PartialObjectMetadata rows.0.object.metadata.name=one",
		"ADDED - kind=Table columnDefinitions=null rows.0.cells.0=two")
}

func TestAWatchSpeaksProtobuf(t *testing.T) {
	s := newServer(t, nil)
	url := listen(t, s)
	do(t, s, "POST", configMapsPath, configMapNamed("web", "a", "1")).want(t, 201)
	w := startWatch(t, url+configMapsPath+"?watch=1", "Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	var length uint32
	if err := binary.Read(w.lines, binary.BigEndian, &length); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, length)
	if _, err := io.ReadFull(w.lines, frame); err != nil {
		t.Fatal(err)
	}
	var event metav1.WatchEvent
	if err := event.Unmarshal(frame); err != nil {
		t.Fatal(err)
	}
	c := &v1.ConfigMap{}
	kind := c.GroupVersionKind()
	if err := decodeProtobuf(event.Object.Raw, &kind, c); err != nil || event.Type != "ADDED" || kind.Kind != "ConfigMap" || c.Name != "web" || c.Data["a"] != "1" {
		t.Errorf("%v %v %v %+v", err, event.Type, kind, c)
	}
}
