package probes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Codes of gRPC that this client meets. Source: grpc.io, "Status codes".
const (
	codeOK               = 0
	codeUnknown          = 2
	codeDeadlineExceeded = 4
	codePermissionDenied = 7
	codeUnimplemented    = 12
	codeInternal         = 13
	codeUnavailable      = 14
	codeUnauthenticated  = 16
)

// maxHealthResponse is more than any answer of the health protocol needs.
const maxHealthResponse = 4 << 10

// GRPC returns a check that succeeds when the server at addr ("host:port")
// answers grpc.health.v1.Health/Check for service with SERVING. timeout is what
// the texts name; the attempt is bounded by its context, as every check is. The
// connection is plain HTTP/2, a new one each time. It never returns an error
// but when its context is cancelled.
// Source: kubelet, pkg/probe/grpc; protocol: grpc.io, "gRPC over HTTP2".
func GRPC(addr, service string, timeout time.Duration, dial Dial) Check {
	c := &grpcClient{addr: addr, timeout: timeout, dial: dial.orDefault(), message: healthRequest(service)}
	return c.check
}

type grpcClient struct {
	addr    string
	timeout time.Duration
	dial    Dial
	message []byte
}

func (c *grpcClient) check(ctx context.Context) Attempt {
	link := &grpcLink{dial: c.dial}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	// A transport for each attempt: only so is it known whose connection failed
	// when attempts run concurrently.
	transport := &http.Transport{
		DialContext:            link.connect,
		Protocols:              protocols,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	defer transport.CloseIdleConnections()

	status, err := c.call(ctx, transport)
	switch {
	case err == nil && status == servingStatus:
		return succeeded("service healthy")
	case err == nil:
		return failed(fmt.Sprintf("service unhealthy (responded with %q)", statusName(status)))
	case ctx.Err() == context.Canceled:
		return errored(context.Canceled)
	}
	var answer *rpcError
	switch {
	case errors.As(err, &answer) && answer.code == codeUnimplemented:
		return failed("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + answer.message)
	case errors.As(err, &answer) && answer.code == codeDeadlineExceeded:
		return failed(fmt.Sprintf("timeout: health rpc did not complete within %v", c.timeout))
	case errors.As(err, &answer):
		return failed("error: health rpc probe failed: " + answer.Error())
	case ctx.Err() != nil && !link.answered.Load():
		return timedOut(fmt.Sprintf("timeout: failed to connect service %q within %v: %v", c.addr, c.timeout, ctx.Err()))
	case ctx.Err() != nil:
		return timedOut(fmt.Sprintf("timeout: health rpc did not complete within %v", c.timeout))
	case !link.answered.Load():
		return failed(fmt.Sprintf("error: failed to connect service at %q: %v", c.addr, bare(err)))
	}
	return failed("error: health rpc probe failed: " + (&rpcError{codeUnavailable, bare(err).Error()}).Error())
}

// call makes the one request and returns the ServingStatus of the answer. An
// answer that is an error is an *rpcError, everything else is the connection's.
func (c *grpcClient) call(ctx context.Context, transport *http.Transport) (status uint64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+"/grpc.health.v1.Health/Check", bytes.NewReader(c.message))
	if err != nil {
		return 0, err
	}
	req.Header = http.Header{
		"Content-Type": {"application/grpc"},
		"Te":           {"trailers"},
		"User-Agent":   {UserAgent},
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	contentType := res.Header.Get("Content-Type")
	switch {
	case res.StatusCode != http.StatusOK:
		return 0, &rpcError{codeOfHTTP(res.StatusCode), fmt.Sprintf("unexpected HTTP status code received from server: %d (%s)",
			res.StatusCode, http.StatusText(res.StatusCode))}
	case !strings.HasPrefix(contentType, "application/grpc"):
		return 0, &rpcError{codeUnknown, fmt.Sprintf("unexpected HTTP status code received from server: 200 (OK); transport: received unexpected content-type %q", contentType)}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxHealthResponse+1))
	if err != nil {
		return 0, err
	}
	// A server without a message to send puts the trailers into the headers.
	trailers := res.Trailer
	if res.Header.Get("Grpc-Status") != "" {
		trailers = res.Header
	}
	if len(body) <= maxHealthResponse {
		if err := trailerError(trailers); err != nil {
			return 0, err
		}
	}
	return parseHealthResponse(body)
}

// trailerError returns the error that the trailers of an answer carry, if any.
func trailerError(trailers http.Header) error {
	text := trailers.Get("Grpc-Status")
	if text == "" {
		return &rpcError{codeInternal, "server closed the stream without sending trailers"}
	}
	code, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return &rpcError{codeInternal, fmt.Sprintf("malformed grpc-status: %q", text)}
	}
	if code == codeOK {
		return nil
	}
	message := trailers.Get("Grpc-Message")
	if plain, err := url.PathUnescape(message); err == nil {
		message = plain
	}
	return &rpcError{int(code), message}
}

// rpcError is an error that the server answered with.
type rpcError struct {
	code    int
	message string
}

func (e *rpcError) Error() string {
	return fmt.Sprintf("rpc error: code = %s desc = %s", codeName(e.code), e.message)
}

func codeName(code int) string {
	names := [...]string{"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
		"PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
		"Internal", "Unavailable", "DataLoss", "Unauthenticated"}
	if code < len(names) {
		return names[code]
	}
	return fmt.Sprintf("Code(%d)", code)
}

// codeOfHTTP is the code for an answer that is no gRPC at all.
// Source: grpc.io, "HTTP to gRPC Status Code Mapping".
func codeOfHTTP(status int) int {
	switch status {
	case http.StatusBadRequest:
		return codeInternal
	case http.StatusUnauthorized:
		return codeUnauthenticated
	case http.StatusForbidden:
		return codePermissionDenied
	case http.StatusNotFound:
		return codeUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codeUnavailable
	}
	return codeUnknown
}

// The health protocol's messages are
//
//	message HealthCheckRequest  { string service = 1; }
//	message HealthCheckResponse { ServingStatus status = 1; }
//
// each behind a byte that says "compressed" and four bytes of length.

const servingStatus = 1

func statusName(status uint64) string {
	names := [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
	if status < uint64(len(names)) {
		return names[status]
	}
	return strconv.FormatUint(status, 10)
}

// healthRequest returns a HealthCheckRequest with its prefix.
func healthRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service)))
		message = append(message, service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// parseHealthResponse returns the status of a HealthCheckResponse with its
// prefix. Unknown fields are skipped; of several statuses the last one counts.
func parseHealthResponse(body []byte) (status uint64, err error) {
	malformed := func(what string) (uint64, error) {
		return 0, &rpcError{codeInternal, "cannot read the health response: " + what}
	}
	switch {
	case len(body) > maxHealthResponse:
		return malformed(fmt.Sprintf("longer than %d bytes", maxHealthResponse))
	case len(body) < 5:
		return malformed("no message")
	case body[0] != 0:
		return malformed("compressed, which was not asked for")
	}
	message := body[5:]
	if uint64(binary.BigEndian.Uint32(body[1:5])) != uint64(len(message)) {
		return malformed("length differs from what is announced")
	}
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 || tag>>3 == 0 {
			return malformed("broken field")
		}
		message = message[n:]
		var size uint64
		switch tag & 7 {
		case 0:
			value, n := binary.Uvarint(message)
			if n <= 0 {
				return malformed("broken number")
			}
			if tag>>3 == 1 {
				status = value
			}
			size = uint64(n)
		case 1:
			size = 8
		case 2:
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)-n) {
				return malformed("broken length")
			}
			size = uint64(n) + length
		case 5:
			size = 4
		default:
			return malformed("broken field type")
		}
		if size > uint64(len(message)) {
			return malformed("cut off")
		}
		message = message[size:]
	}
	return status, nil
}

// grpcLink makes one attempt's connection and remembers whether the other side
// ever said something: only then was there a service to speak to.
type grpcLink struct {
	dial     Dial
	answered atomic.Bool
}

func (l *grpcLink) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := l.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &grpcConn{conn, l}, nil
}

type grpcConn struct {
	net.Conn
	link *grpcLink
}

func (c *grpcConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.link.answered.Store(true)
	}
	return n, err
}

// bare takes the method and address off an error of net/http; the texts around
// it name them already.
func bare(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
