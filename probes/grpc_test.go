package probes

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// grpcServer serves on loopback until the test ends.
func grpcServer(tb testing.TB, service healthpb.HealthServer) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := grpc.NewServer()
	if service != nil {
		healthpb.RegisterHealthServer(s, service)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); s.Serve(l) }()
	tb.Cleanup(func() { s.Stop(); <-ended })
	return l.Addr().String()
}

// strangeHealth answers as its function says.
type strangeHealth struct {
	healthpb.UnimplementedHealthServer
	check func(context.Context) (*healthpb.HealthCheckResponse, error)
}

func (s strangeHealth) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return s.check(ctx)
}

func TestGRPCAgainstARealHealthServer(t *testing.T) {
	service := health.NewServer()
	addr := grpcServer(t, service)
	service.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	service.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	service.SetServingStatus("unknown", healthpb.HealthCheckResponse_UNKNOWN)
	for name, want := range map[string]Attempt{
		"":        {Outcome: Success, Output: "service healthy"},
		"up":      {Outcome: Success, Output: "service healthy"},
		"down":    {Outcome: Failure, Output: `service unhealthy (responded with "NOT_SERVING")`},
		"unknown": {Outcome: Failure, Output: `service unhealthy (responded with "UNKNOWN")`},
		"nobody":  {Outcome: Failure, Output: "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
	} {
		check := GRPC(addr, name, long, nil)
		for range 2 {
			wantAttempt(t, attempt(t, check, long), want.Outcome, want.Output)
		}
	}
}

func TestGRPCAgainstServersOfOtherKinds(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	web2 := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	web2.Config.Protocols = protocols
	web2.Start()
	defer web2.Close()
	silent := listen(t, waitForClose)
	closing := listen(t, func(conn net.Conn) { conn.Read(make([]byte, 1)) })
	hangs := grpcServer(t, strangeHealth{check: func(ctx context.Context) (*healthpb.HealthCheckResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	refuses := grpcServer(t, strangeHealth{check: func(context.Context) (*healthpb.HealthCheckResponse, error) {
		return nil, status.Error(codes.PermissionDenied, "nö: 100%")
	}})
	without := grpcServer(t, nil)
	dead := refusing(t)
	strip := func(url string) string { return strings.TrimPrefix(url, "http://") }
	for _, test := range []struct {
		name, addr string
		timeout    time.Duration
		want       string // the beginning
	}{
		{"refused", dead, long, fmt.Sprintf("error: failed to connect service at %q: dial tcp %s: connect: connection refused", dead, dead)},
		{"silent", silent, time.Second, fmt.Sprintf("timeout: failed to connect service %q within 1s: context deadline exceeded", silent)},
		{"closing", closing, long, fmt.Sprintf("error: failed to connect service at %q: ", closing)},
		{"hanging", hangs, time.Second, "timeout: health rpc did not complete within 1s"},
		{"an error of its own", refuses, long, "error: health rpc probe failed: rpc error: code = PermissionDenied desc = nö: 100%"},
		{"no health service", without, long, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"},
		// It answers and hangs up at once; which of the two is noticed first is open.
		{"HTTP/1", strip(web.URL), long, "error: "},
		{"HTTP/2 without gRPC", strip(web2.URL), long, `error: health rpc probe failed: rpc error: code = Unknown desc = unexpected HTTP status code received from server: 200 (OK); transport: received unexpected content-type "text/plain; charset=utf-8"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := attempt(t, GRPC(test.addr, "", test.timeout, nil), test.timeout)
			if got.Outcome != Failure || got.Err != nil || !strings.HasPrefix(got.Output, test.want) {
				t.Errorf("got %+v\nwant %s", got, test.want)
			}
		})
	}
}

func TestGRPCNamesItself(t *testing.T) {
	agents := make(chan []string, 1)
	addr := grpcServer(t, strangeHealth{check: func(ctx context.Context) (*healthpb.HealthCheckResponse, error) {
		headers, _ := metadata.FromIncomingContext(ctx)
		agents <- headers.Get("user-agent")
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	}})
	wantAttempt(t, attempt(t, GRPC(addr, "", long, nil), long), Success, "service healthy")
	if got := <-agents; len(got) != 1 || got[0] != UserAgent {
		t.Errorf("user agent %q", got)
	}
}

func TestHealthMessagesAreTheProtocols(t *testing.T) {
	for _, service := range []string{"", "a", strings.Repeat("long", 100)} {
		var got healthpb.HealthCheckRequest
		if err := proto.Unmarshal(healthRequest(service)[5:], &got); err != nil || got.Service != service {
			t.Errorf("%q was read as %q, %v", service, got.Service, err)
		}
	}
	for name, body := range map[string]string{
		"nothing":          "",
		"half a prefix":    "\x00\x00\x00",
		"compressed":       "\x01\x00\x00\x00\x00",
		"announces more":   "\x00\x00\x00\x00\x03\x08\x01",
		"announces less":   "\x00\x00\x00\x00\x01\x08\x01",
		"field zero":       "\x00\x00\x00\x00\x02\x00\x01",
		"group":            "\x00\x00\x00\x00\x01\x0b",
		"no number":        "\x00\x00\x00\x00\x01\x08",
		"endless number":   "\x00\x00\x00\x00\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"text too long":    "\x00\x00\x00\x00\x02\x12\x05",
		"fixed cut off":    "\x00\x00\x00\x00\x03\x15\x01\x02",
		"longer than wise": strings.Repeat("x", maxHealthResponse+1),
	} {
		if status, err := parseHealthResponse([]byte(body)); err == nil {
			t.Errorf("%s: read as status %d", name, status)
		}
	}
}

// The parser agrees with protobuf on everything it accepts, and accepts every
// response that protobuf writes.
func FuzzParseHealthResponse(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Add([]byte{8, 1, 8, 2, 0x12, 3, 'a', 'b', 'c', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, message []byte) {
		parseHealthResponse(message) // with any prefix: no panic
		got, err := parseHealthResponse(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
		var want healthpb.HealthCheckResponse
		wantErr := proto.Unmarshal(message, &want)
		if err == nil && wantErr == nil && int32(got) != int32(want.Status) {
			t.Fatalf("%x is %d, for protobuf %d", message, got, want.Status)
		}
		if wantErr == nil {
			if canonical, _ := proto.Marshal(&healthpb.HealthCheckResponse{Status: want.Status}); len(canonical) <= maxHealthResponse {
				status, err := parseHealthResponse(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(canonical))), canonical...))
				if err != nil || int32(status) != int32(want.Status) {
					t.Fatalf("%x is %d, %v; want %d", canonical, status, err, want.Status)
				}
			}
		}
	})
}

func BenchmarkGRPC(b *testing.B) {
	benchmark(b, GRPC(grpcServer(b, health.NewServer()), "", long, nil))
}
