package behaviour_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// A world is a bubble with a stand-in, https://example.com, and a client of it. A test may change
// conf, transport and base before the first request.
type world struct {
	*mosaictest.Server
	t         *testing.T
	conf      *mosaic.Config
	log       kit.Log // of conf, from debug on
	transport *http.Transport
	dials     atomic.Int32        // of transport
	base      http.RoundTripper   // of the client; at first transport
	client    func() *http.Client // the same each time
}

func inWorld(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		w := &world{Server: srv, t: t, conf: srv.Config()}
		w.conf.Logger = w.log.Logger(slog.LevelDebug)
		w.transport = srv.Client().Transport.(*http.Transport).Clone()
		dial := w.transport.DialContext
		w.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			w.dials.Add(1)
			return dial(ctx, network, addr)
		}
		w.base = w.transport
		w.client = sync.OnceValue(func() *http.Client { return w.conf.Client(kit.Over(context.Background(), w.base)) })
		test(t, w)
		time.Sleep(time.Minute) // a bubble's clock stops with the test
	})
}

// intercept lets rt answer the requests to path.
func (w *world) intercept(path string, rt kit.RoundTripper) {
	next := w.base
	w.base = kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path == path {
			return rt(req)
		}
		return next.RoundTrip(req)
	})
}

// served is a transport to a handler, without a connection.
func served(h http.HandlerFunc) kit.RoundTripper {
	return func(req *http.Request) (*http.Response, error) {
		rec := httptest.NewRecorder()
		h(rec, req)
		if req.Body != nil {
			req.Body.Close()
		}
		return rec.Result(), nil
	}
}

// request returns a request to a URL, or to a path of the stand-in.
func request(method, target string, body io.Reader) *http.Request {
	if strings.HasPrefix(target, "/") {
		target = "https://example.com" + target
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		panic(err)
	}
	return req
}

func (w *world) get(target string) outcome { return w.send(request("GET", target, nil)) }

func (w *world) send(req *http.Request) outcome {
	o := outcome{t: w.t}
	begun := time.Now()
	o.res, o.err = w.client().Do(req)
	o.took = time.Since(begun)
	if o.err == nil {
		var body []byte
		body, o.err = io.ReadAll(o.res.Body)
		o.res.Body.Close()
		o.body = string(body)
	}
	return o
}

// An outcome is a request's response or error.
type outcome struct {
	t    *testing.T
	took time.Duration // until there was one
	res  *http.Response
	body string
	err  error // of the request, or else of the body
}

// want fails t unless the response came after exactly so long, with this status and, if one is
// given, this body.
func (o outcome) want(took time.Duration, status int, body ...string) {
	o.t.Helper()
	switch {
	case o.err != nil:
		o.t.Errorf("got error %v after %s; want status %d after %s", o.err, o.took, status, took)
	case o.res.StatusCode != status || o.took != took:
		o.t.Errorf("got status %d after %s; want %d after %s", o.res.StatusCode, o.took, status, took)
	case len(body) > 0 && o.body != body[0]:
		o.t.Errorf("got a body of %d bytes; want the %d bytes of the status %d", len(o.body), len(body[0]), status)
	}
}

// warm gets a token for the default audience and lets it grow this old.
func (w *world) warm(age time.Duration) {
	w.t.Helper()
	w.get("/cis/warm").want(0, 200)
	time.Sleep(age)
}

// arrived returns the API requests to a path, and ends t unless there were so many.
func (w *world) arrived(path string, n int) (rs []mosaictest.Request) {
	w.t.Helper()
	for _, r := range w.APIRequests() {
		if r.RequestURI == path {
			rs = append(rs, r)
		}
	}
	if len(rs) != n {
		w.t.Fatalf("%s: %d requests arrived; want %d", path, len(rs), n)
	}
	return rs
}

func (w *world) wantTokenRequests(n int) {
	w.t.Helper()
	synctest.Wait()
	if got := len(w.TokenRequests()); got != n {
		w.t.Errorf("got %d token requests; want %d", got, n)
	}
}

// A streamed body cannot be rewound, and knows whether it was closed.
type streamed struct {
	io.Reader
	closed atomic.Bool
}

func newStreamed() *streamed { return &streamed{Reader: strings.NewReader("form")} }

func (b *streamed) Close() error {
	b.closed.Store(true)
	return nil
}

func (b *streamed) wantClosed(t *testing.T) {
	t.Helper()
	if !b.closed.Load() {
		t.Error("a body was not closed")
	}
}
