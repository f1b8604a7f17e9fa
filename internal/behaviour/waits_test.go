package behaviour_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestTheWaitForATokenEndsWithTheRequestsContext(t *testing.T) {
	for name, tt := range map[string]struct {
		deadline, cancel, timeout, took time.Duration
		want                            error
	}{
		"its context's deadline": {deadline: 100 * time.Millisecond, took: 100 * time.Millisecond, want: context.DeadlineExceeded},
		"the client's Timeout":   {timeout: time.Second, took: time.Second, want: context.DeadlineExceeded},
		"cancelled meanwhile":    {cancel: time.Second, took: time.Second, want: context.Canceled},
		"cancelled before":       {cancel: -1, want: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.SetLatency(5*time.Second, 0)
				hasty := *w.client()
				hasty.Timeout = tt.timeout
				var wg sync.WaitGroup
				wg.Go(func() { w.get("/cis/patient").want(5*time.Second, 200) }) // is not disturbed
				synctest.Wait()
				w.client = func() *http.Client { return &hasty }
				ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(tt.deadline, time.Hour))
				defer cancel()
				if tt.cancel < 0 {
					cancel()
				} else if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				body := newStreamed()
				o := w.send(request("POST", "/cis", body).WithContext(ctx))
				timeout := net.Error(nil) // retrying code asks so
				if isTimeout := errors.As(o.err, &timeout) && timeout.Timeout(); !errors.Is(o.err, tt.want) || isTimeout != (tt.want == context.DeadlineExceeded) || o.took != tt.took {
					t.Errorf("got %v after %s, a timeout: %t; want %v after %s", o.err, o.took, isTimeout, tt.want, tt.took)
				}
				body.wantClosed(t)
				wg.Wait()
				w.wantTokenRequests(1)
				w.arrived("/cis", 0)
			})
		})
	}
}

func TestARequestSentAgainEndsWithItsContext(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		sent := 0
		w.Handle("/cis/refused", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if sent++; sent > 1 {
				mosaictest.Fault{Hang: true}.ServeHTTP(rw, r)
			}
			says("")(rw, r)
		}))
		w.warm(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if o := w.send(request("GET", "/cis/refused", nil).WithContext(ctx)); !errors.Is(o.err, context.DeadlineExceeded) || o.took != time.Second {
			t.Errorf("got %v after %s; want the context's error after 1s", o.err, o.took)
		}
		w.arrived("/cis/refused", 2)
	})
}

// A writer is a function.
type writer func()

func (f writer) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// A JSONHandler is locked while it writes: if the client wrote a record in a caller's goroutine,
// this test would hang.
func TestALoggerMayWriteThroughTheClientThatLogs(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		level        slog.Level
		fault        int
		want         int // status; 0: an error
	}{
		{"the token endpoint answers 400", "/cis/logs", slog.LevelInfo, 400, 0},
		{"all is well, at debug", "/cis/logs", slog.LevelDebug, 0, 200},
		{"to another host", "https://logs.example.com/", slog.LevelInfo, 0, 401},
		{"with an Authorization of its own, at debug", "https://u:p@example.com/cis/logs", slog.LevelDebug, 0, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				if tt.fault != 0 {
					w.Fail(mosaictest.OAuthError(tt.fault, "invalid_request", "no"))
				}
				var posts atomic.Int32
				logger := slog.New(slog.NewJSONHandler(writer(func() {
					posts.Add(1)
					if o := w.send(request("POST", tt.target, strings.NewReader("a record"))); o.err == nil || tt.want != 0 {
						o.want(0, tt.want)
					}
				}), &slog.HandlerOptions{Level: tt.level}))
				w.conf.Logger = logger
				logger.Info("hello")
				synctest.Wait()
				if got := posts.Load(); got != 2 {
					t.Errorf("%d records were written; want hello and one of the client's", got)
				}
			})
		})
	}
}

func TestTheRequestsBodyIsClosed(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		change       func(*world)
		want         string // in the error
	}{
		{"sent", "/cis/fine", func(*world) {}, ""},
		{"refused", "/cis/refused", func(*world) {}, ""},
		{"to a foreign origin", "https://www.example.com/", func(*world) {}, ""},
		{"with its own Authorization", "https://u:p@example.com/cis", func(*world) {}, ""},
		{"no token", "/risk", func(w *world) { w.SetSecret("another-secret") }, `Post "https://example.com/risk": mosaic: token request`},
		{"no token in time", "/risk", func(w *world) { w.Fail(mosaictest.Fault{Hang: true}) }, "mosaic: token request"},
		{"no connection", "https://www.example.org/", func(*world) {}, "www.example.org"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, says(invalidToken), func(t *testing.T, w *world) {
				tt.change(w)
				bodies := []*streamed{newStreamed()}
				req := request("POST", tt.target, bodies[0])
				req.GetBody = func() (io.ReadCloser, error) {
					bodies = append(bodies, newStreamed())
					return bodies[len(bodies)-1], nil
				}
				o := w.send(req)
				if (o.err != nil) != (tt.want != "") || o.err != nil && !strings.Contains(o.err.Error(), tt.want) {
					t.Errorf("got error %v; want %q", o.err, tt.want)
				}
				if reply := (*oauth2.RetrieveError)(nil); tt.name == "no token" && (!errors.As(o.err, &reply) || reply.ErrorCode != "invalid_client") {
					t.Errorf("got error %v; want the token endpoint's", o.err)
				}
				w.arrived("/risk", 0) // nothing is sent without a token
				for _, b := range bodies {
					b.wantClosed(t)
				}
			})
		})
	}
}

func TestTheCallersRequestIsNeitherModifiedNorGivenAToken(t *testing.T) {
	for _, target := range []string{"/cis/fine", "/cis/refused", "/cis/own", "https://www.example.com/"} {
		inWorld(t, func(t *testing.T, w *world) {
			w.refuseFirst("/cis/refused", says(invalidToken))
			w.base = kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
				res, err := w.transport.RoundTrip(req)
				if token := req.Header["Authorization"]; strings.HasPrefix(strings.Join(token, ""), "Bearer e") { // some transports write into their request
					token[0] = "edited"
					req.Header.Set("X-More", "more")
					req.Header.Del("Accept")
				}
				return res, err
			})
			w.warm(10 * time.Second)
			req := request("POST", target, strings.NewReader("form"))
			req.Header = http.Header{"Accept": {"text/plain", "text/html"}, "User-Agent": nil, "X-Empty": {}}
			if target == "/cis/own" {
				own(req)
			}
			before, header, url := *req, req.Header.Clone(), *req.URL
			res, err := w.client().Transport.RoundTrip(req)
			if err != nil || strings.HasPrefix(target, "/cis/") && target != "/cis/own" && res.StatusCode != 200 {
				t.Fatalf("%s: error %v, or no status 200", target, err)
			}
			res.Body.Close()
			if res.Request != req || !reflect.DeepEqual(req.Header, header) || *req.URL != url ||
				req.Body != before.Body || req.Host != before.Host || req.ContentLength != before.ContentLength || req.Response != before.Response {
				t.Errorf("%s: the request was modified, or is not that of the response", target)
			}
			for _, r := range w.APIRequests()[1:] {
				if _, there := r.Header["User-Agent"]; there || len(r.Header["Accept"]) != 2 {
					t.Errorf("%s: arrived with %d values of Accept and a User-Agent: %t; want 2 and none", target, len(r.Header["Accept"]), there)
				}
			}
			w.get("/cis/next").want(0, 200)
		})
	}
}

func TestABaseThatReturnsNothingIsAnError(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		body := newStreamed()
		for path, first := range map[string]*http.Response{"/cis/nothing": nil, "/cis/refused": {StatusCode: 401, Body: body}, "/cis/bare": {StatusCode: 401}} {
			w.intercept(path, func(*http.Request) (*http.Response, error) {
				res := first
				first = nil
				return res, nil
			})
		}
		for _, target := range []string{"/cis/nothing", "/cis/refused", "/cis/bare", "https://u:p@example.com/cis/nothing", "https://www.example.com/cis/nothing"} {
			w.warm(2 * time.Minute)
			if o := w.get(target); o.err == nil || !strings.Contains(o.err.Error(), "with a nil error") { // net/http's words
				t.Errorf("%s: got %v; want an error that says so", target, o.err)
			}
		}
		body.wantClosed(t)
	})
}

// A closer counts the calls of CloseIdleConnections.
type closer struct {
	http.RoundTripper
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

func TestTheContextsClientIsKeptAndUntouched(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Handle("/cis/hop", http.RedirectHandler("/cis/elsewhere", http.StatusFound))
		w.Handle("/cis/cookie", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			http.SetCookie(rw, &http.Cookie{Name: "c", Value: "v"})
		}))
		jar, _ := cookiejar.New(nil)
		base := &closer{RoundTripper: w.base}
		kept := &http.Client{
			Transport:     base,
			Jar:           jar,
			Timeout:       7 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		client := w.conf.Client(context.WithValue(t.Context(), oauth2.HTTPClient, kept))
		w.client = func() *http.Client { return client }
		w.get("/cis/hop").want(0, 302) // not followed
		w.get("/cis/cookie").want(0, 200)
		w.get("/cis/next").want(0, 200)
		if got := w.arrived("/cis/next", 1)[0].Header.Get("Cookie"); got != "c=v" || client.Timeout != kept.Timeout {
			t.Errorf("got cookie %q and timeout %s; want those of the client", got, client.Timeout)
		}
		if client.CloseIdleConnections(); base.closed == 0 {
			t.Error("CloseIdleConnections did not reach the base")
		}
		if kept.Transport != base || kept.Jar != jar || kept.Timeout != 7*time.Second || kept.CheckRedirect == nil {
			t.Error("the context's client was changed")
		}
		w.conf.Client(kit.Over(t.Context(), kit.RoundTripper(w.transport.RoundTrip))).CloseIdleConnections() // a base need not have it
	})
}

func TestARequestWithoutAURLIsAnError(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		body := newStreamed()
		if _, err := w.client().Transport.RoundTrip(&http.Request{Header: http.Header{}, Body: body}); err == nil {
			t.Error("got no error; want the base's")
		}
		body.wantClosed(t)
	})
}

func TestAnInvalidConfigsClientSaysWhatIsWrong(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.conf.ClientID, w.conf.Hosts = "", []string{"*.acme.com"}
		w.client().CloseIdleConnections()
		for _, target := range []string{"https://example.com/cis", "https://www.example.com/"} {
			body := newStreamed()
			o := w.send(request("POST", target, body))
			if want := fmt.Sprintf("Post %q: %s", target, w.conf.Validate()); o.err == nil || o.err.Error() != want {
				t.Errorf("got %v; want %s", o.err, want)
			}
			body.wantClosed(t)
		}
		if n := len(w.APIRequests()) + len(w.TokenRequests()); n != 0 {
			t.Errorf("%d requests were sent; want none", n)
		}
	})
}
