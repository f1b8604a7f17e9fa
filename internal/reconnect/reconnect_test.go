package reconnect_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/internal/reconnect"
)

// A transport is an http.RoundTripper that notes what Send does.
type transport struct {
	reply  func(*http.Request) (*http.Response, error)
	closed []bool // Close of each request
	idle   int    // calls of CloseIdleConnections
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.closed = append(t.closed, req.Close)
	return t.reply(req)
}
func (t *transport) CloseIdleConnections() { t.idle++ }

func silent(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, errors.New("gone")
}

func ok(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, nil }

// request sends a request to host with a second of time.
func request(t testing.TB, s *reconnect.Sender, rt http.RoundTripper, host string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.Send(rt, req)
	if req.Close {
		t.Error("Send has changed the request")
	}
}

func TestAConnectionIsGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name    string
		reply   func(*http.Request) (*http.Response, error)
		givenUp bool
	}{
		{"a request that times out", silent, true},
		{"a deadline that only the clock shows", func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return nil, errors.New("i/o timeout")
		}, true},
		{"a timeout of the transport", func(*http.Request) (*http.Response, error) { return nil, os.ErrDeadlineExceeded }, true},
		{"status 421", func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 421}, nil }, true},
		{"a reply", ok, false},
		{"status 500", func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 500}, nil }, false},
		{"another error", func(*http.Request) (*http.Response, error) { return nil, io.EOF }, false},
		{"nothing", func(*http.Request) (*http.Response, error) { return nil, nil }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s reconnect.Sender
				rt := &transport{reply: tt.reply}
				request(t, &s, rt, "a.example")
				rt.reply = ok
				begun := time.Now()
				for _, host := range []string{"b.example", "a.example", "a.example"} {
					request(t, &s, rt, host)
				}
				waited := time.Since(begun) > 0
				if got := rt.closed[2]; rt.closed[0] || rt.closed[1] || rt.closed[3] || got != tt.givenUp || waited != tt.givenUp || (rt.idle == 1) != tt.givenUp {
					t.Errorf("got Close %v, idle connections closed %d times before them: %t; want the next request to the host to be the last on its connection: %t", rt.closed, rt.idle, waited, tt.givenUp)
				}
			})
		})
	}
}

func TestACanceledRequestKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s reconnect.Sender
		rt := &transport{reply: silent}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		time.AfterFunc(time.Second, cancel)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://a.example", nil)
		_, _ = s.Send(rt, req)
		rt.reply = ok
		request(t, &s, rt, "a.example")
		if rt.closed[1] || rt.idle != 0 {
			t.Error("the connection was given up")
		}
	})
}

func TestASlowServerCostsAConnectionInFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s reconnect.Sender
		rt := &transport{reply: silent}
		for range 60 { // seconds
			request(t, &s, rt, "a.example")
		}
		closed := 0
		for _, c := range rt.closed {
			if c {
				closed++
			}
		}
		if closed < 10 || closed > 12 || rt.idle > 12 {
			t.Errorf("%d requests had Close set, and idle connections were closed %d times; want both once in five seconds", closed, rt.idle)
		}
	})
}

func TestAPanicOfCloseIdleConnectionsEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s reconnect.Sender
		for range 2 {
			request(t, &s, panicking{}, "a.example")
		}
	})
}

type panicking struct{}

func (panicking) RoundTrip(req *http.Request) (*http.Response, error) { return silent(req) }
func (panicking) CloseIdleConnections()                               { panic("closed twice") }

// A conn can be silenced: then nothing comes, and what is written is lost.
type conn struct {
	net.Conn
	silent *atomic.Bool
}

func (c conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

func (c conn) Write(p []byte) (int, error) {
	if c.silent.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestASilentHTTP2ConnectionIsReplaced(t *testing.T) {
	for name, failures := range map[string]int{"idle": 1, "in use": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
			srv.EnableHTTP2 = true
			srv.StartTLS()
			defer srv.Close()
			rt := srv.Client().Transport.(*http.Transport).Clone()
			defer rt.CloseIdleConnections()
			var dials atomic.Int32
			silence := new(atomic.Bool)
			rt.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				if dials.Add(1) == 1 {
					return conn{c, silence}, err
				}
				return c, err
			}
			var s reconnect.Sender
			get := func(ctx context.Context) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
				if err != nil {
					return err
				}
				res, err := s.Send(rt, req)
				if err != nil {
					return err
				}
				defer res.Body.Close()
				if body, err := io.ReadAll(res.Body); err != nil || string(body) != "HTTP/2.0" {
					t.Errorf("got %q, error %v; want a reply over HTTP/2", body, err)
				}
				return nil
			}
			for range 2 {
				if err := get(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := dials.Load(); n != 1 {
				t.Fatalf("got %d connections; want one", n)
			}
			silence.Store(true)
			if name == "in use" {
				ctx, cancel := context.WithCancel(t.Context())
				var hung sync.WaitGroup
				hung.Go(func() { _ = get(ctx) })
				defer hung.Wait()
				defer cancel()
				time.Sleep(50 * time.Millisecond) // it is on the connection
			}
			for i := range failures + 2 {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				if i >= failures { // has as much time as it needs
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				}
				if err := get(ctx); (err != nil) != (i < failures) {
					t.Errorf("request %d over the silent connection: got error %v; want %d to fail", i+1, err, failures)
				}
				cancel()
			}
		})
	}
}
