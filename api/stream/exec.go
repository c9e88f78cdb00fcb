package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/runtime"

	"podd/internal/refusal"
	"podd/pod"
)

// Streams are a client's side of a command. What a client did not ask for is nil.
type Streams struct {
	Stdin  io.Reader // ends when the client closes its input
	Stdout io.Writer
	Stderr io.Writer // nil with TTY
	TTY    bool
	// Resize has the newest size of the client's terminal, if the client told one
	// that was not taken yet. It is never closed.
	Resize <-chan pod.TerminalSize
}

// ExitCode is the error of a command that ran and exited with something but 0.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// limits bound what one connection may cost.
type limits struct {
	idle     time.Duration // without a byte in either direction
	creation time.Duration // until a SPDY client has made the streams that belong together
	linger   time.Duration // for a client to take what was written last
	ping     time.Duration // between questions to a WebSocket's client whether it is there
	forwards int           // ports forwarded at once over one connection
}

// standard has the kubelet's times: its --streaming-connection-idle-timeout and
// the stream creation timeout of its streaming server.
var standard = limits{idle: 4 * time.Hour, creation: 30 * time.Second, linger: 10 * time.Second, ping: 30 * time.Second, forwards: 256}

// Exec serves one exec or attach request in whichever protocol it speaks. run does
// the work between the streams; its context ends when the client hangs up. The
// client learns of run's error: nil is success, an [ExitCode] becomes the status
// that clients take the exit code from, an APIStatus is passed on, everything else
// is an internal error. The query has the names of the API (stdin=true, stdout,
// stderr, tty) or those of the kubelet (input=1, output, error, tty).
func Exec(w http.ResponseWriter, r *http.Request, run func(context.Context, Streams) error) {
	standard.exec(w, r, run)
}

func (l limits) exec(w http.ResponseWriter, r *http.Request, run func(context.Context, Streams) error) {
	wanted := wantedStreams(r.URL.Query())
	switch {
	case !wanted.stdin && !wanted.stdout && !wanted.stderr:
		refusal.Write(w, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr"))
	case isWebSocket(r):
		l.execWebSocket(w, r, wanted, run)
	case isSPDY(r):
		l.execSPDY(w, r, wanted, run)
	default:
		refusal.Write(w, apierrors.NewBadRequest("Upgrade request required"))
	}
}

// wanted says which streams a client asks for.
type wanted struct{ stdin, stdout, stderr, tty bool }

func wantedStreams(q url.Values) wanted {
	w := wanted{
		stdin:  isTrue(q, "stdin") || isTrue(q, "input"),
		stdout: isTrue(q, "stdout") || isTrue(q, "output"),
		stderr: isTrue(q, "stderr") || isTrue(q, "error"),
		tty:    isTrue(q, "tty"),
	}
	if w.tty {
		w.stderr = false // a terminal has one output; the kubelet drops it as well
	}
	return w
}

// isTrue reads a boolean as apimachinery's conversion of queries does: given and
// neither false nor 0.
func isTrue(q url.Values, name string) bool {
	return q.Has(name) && !strings.EqualFold(q.Get(name), "false") && q.Get(name) != "0"
}

// safely is run with a panic turned into an error, so that the client is told and
// the connection is closed as after any other end.
func safely(run func(context.Context, Streams) error, ctx context.Context, s Streams) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			runtime.HandleErrorWithContext(ctx, err, "a stream failed", "stack", string(debug.Stack()))
		}
	}()
	return run(ctx, s)
}

// statusOf is what a client is told about the end of a command.
// Source: the kubelet's streaming server; clients take the exit code from the cause.
func statusOf(err error) metav1.Status {
	var code ExitCode
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &code):
		return metav1.Status{
			Status:  metav1.StatusFailure,
			Reason:  remotecommand.NonZeroExitCodeReason,
			Message: "command terminated with non-zero exit code: " + err.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{
				Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(int(code)),
			}}},
		}
	case errors.As(err, &status):
		return status.Status()
	}
	return apierrors.NewInternalError(err).ErrStatus
}

// writeStatus tells a client how a command ended: from version 4 of the protocol
// on as a JSON Status, before as a text that is there only after a failure.
func writeStatus(w io.Writer, err error, asJSON bool) {
	status := statusOf(err)
	var text []byte
	if asJSON {
		text, _ = json.Marshal(status) // a Status always marshals
	} else if err != nil {
		text = []byte(status.Message)
	}
	if len(text) > 0 {
		w.Write(text) // a client that hung up needs none
	}
}

// sizes keeps the newest size only: a command that does not look must not stop
// what comes after.
type sizes chan pod.TerminalSize

func newSizes() sizes { return make(sizes, 1) }

func (s sizes) tell(size pod.TerminalSize) {
	for {
		select {
		case s <- size:
			return
		default:
		}
		select {
		case <-s:
		default:
		}
	}
}
