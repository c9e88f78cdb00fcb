package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"podd/pod"
)

// streams are what a command's or a container's process reads and writes here.
type streams struct {
	stdin          io.Reader // nil: there is none
	stdout, stderr io.Writer
	resize         <-chan pod.TerminalSize // nil: no terminal
}

// Exec runs a command in a container and returns its exit code. Of r, ID and
// Timeout are not used.
func (c *Client) Exec(ctx context.Context, key pod.Key, r pod.ExecRequest) (int, error) {
	return c.converse(ctx, "exec", key, r.Container, r.Command, r.TTY, streams{r.Stdin, r.Stdout, r.Stderr, r.Resize})
}

// Attach connects to a container's main process; see [pod.AttachRequest]. Of r, ID
// and TTY are not used: a container with a terminal is one whose size is told.
func (c *Client) Attach(ctx context.Context, key pod.Key, r pod.AttachRequest) error {
	_, err := c.converse(ctx, "attach", key, r.Container, nil, r.Resize != nil, streams{r.Stdin, r.Stdout, r.Stderr, r.Resize})
	return err
}

// converse is the client's side of Kubernetes' remote command protocol, v4 over
// SPDY: a stream for each of error, stdin, stdout, stderr and resize.
func (c *Client) converse(ctx context.Context, verb string, key pod.Key, container string, command []string, tty bool, s streams) (int, error) {
	q := url.Values{"container": {container}, "command": command, "stdout": {"true"}}
	if s.stdin != nil {
		q.Set("stdin", "true")
	}
	if tty {
		q.Set("tty", "true")
	} else {
		q.Set("stderr", "true")
	}
	conn, err := c.upgrade(ctx, podPath(key, verb), q)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	code, err := talk(conn, tty, s)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return code, err
}

// upgrade asks for streams and returns the connection that they are made on.
func (c *Client) upgrade(ctx context.Context, path string, q url.Values) (httpstream.Connection, error) {
	raw, err := c.dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	target := url.URL{Path: path, RawQuery: q.Encode()}
	fmt.Fprintf(raw, "POST %s HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\nContent-Length: 0\r\n\r\n",
		target.String(), spdy.HeaderSpdy31, httpstream.HeaderProtocolVersion, remotecommand.StreamProtocolV4Name)
	in := bufio.NewReader(raw)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		raw.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer raw.Close()
		return nil, responseError(resp)
	}
	return spdy.NewClientConnection(bufferedConn{raw, in})
}

// bufferedConn reads what came with the answer's head first.
type bufferedConn struct {
	net.Conn
	in *bufio.Reader
}

func (b bufferedConn) Read(p []byte) (int, error) { return b.in.Read(p) }

// talk makes the streams, copies, and returns how it ended once everything was
// copied.
func talk(conn httpstream.Connection, tty bool, s streams) (int, error) {
	open := func(kind string) (httpstream.Stream, error) {
		return conn.CreateStream(http.Header{v1.StreamType: {kind}})
	}
	ended, err := open(v1.StreamTypeError)
	if err != nil {
		return 0, lost(err)
	}
	ended.Close() // we write nothing to it
	if s.stdin != nil {
		in, err := open(v1.StreamTypeStdin)
		if err != nil {
			return 0, lost(err)
		}
		// Ends with the input; a read that never returns ends with the program.
		go func() {
			io.Copy(in, s.stdin)
			in.Close()
		}()
	}
	outputs := map[string]io.Writer{v1.StreamTypeStdout: s.stdout}
	if !tty {
		outputs[v1.StreamTypeStderr] = s.stderr
	}
	var copying sync.WaitGroup
	failed := make(chan error, len(outputs)) // to write here
	for kind, to := range outputs {
		out, err := open(kind)
		if err != nil {
			return 0, lost(err)
		}
		out.Close()
		copying.Go(func() {
			if to == nil {
				to = io.Discard
			}
			_, err := io.Copy(to, out)
			if err != nil {
				failed <- err
				conn.Close()
			}
		})
	}
	if tty && s.resize != nil {
		sizes, err := open(v1.StreamTypeResize)
		if err != nil {
			return 0, lost(err)
		}
		// Ends when the caller closes the channel or the connection is closed.
		go func() {
			defer sizes.Close()
			enc := json.NewEncoder(sizes)
			for size := range s.resize {
				if enc.Encode(size) != nil {
					return
				}
			}
		}()
	}
	text, err := io.ReadAll(io.LimitReader(ended, maxStatus))
	copying.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
	}
	if err != nil || len(text) == 0 {
		return 0, lost(errors.Join(err, io.ErrUnexpectedEOF))
	}
	return result(text)
}

func lost(err error) error { return fmt.Errorf("lost the agent: %w", err) }

// result reads what the error stream says of the end: a Status.
func result(text []byte) (int, error) {
	var status metav1.Status
	if err := json.Unmarshal(text, &status); err != nil {
		return 0, fmt.Errorf("the agent answered %q: %w", text, err)
	}
	if status.Status == metav1.StatusSuccess {
		return 0, nil
	}
	if status.Reason == remotecommand.NonZeroExitCodeReason && status.Details != nil {
		for _, cause := range status.Details.Causes {
			if cause.Type == remotecommand.ExitCodeCauseType {
				return strconv.Atoi(cause.Message)
			}
		}
	}
	return 0, errors.New(status.Message)
}
