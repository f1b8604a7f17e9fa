package behaviour_test

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// closing is a RoundTripper that notes the path of each request that has Close set.
func closing(srv *mosaictest.Server, hangs *atomic.Bool) (rt http.RoundTripper, closed *[]string) {
	closed = new([]string)
	return kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Close {
			*closed = append(*closed, r.URL.Path)
		}
		if hangs.Load() {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return srv.Client().Transport.RoundTrip(r)
	}), closed
}

func TestAnAPICallThatTimesOutGivesUpItsConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var hangs atomic.Bool
		rt, closed := closing(srv, &hangs)
		client := srv.Config().Client(kit.Over(t.Context(), rt))
		client.Timeout = 5 * time.Second
		call := func(path string, header ...string) error {
			req, err := http.NewRequest(http.MethodGet, srv.Endpoint().URL(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, value := range header {
				req.Header.Set("Authorization", value)
			}
			res, err := client.Do(req)
			if err == nil {
				res.Body.Close()
			}
			return err
		}
		for _, header := range [][]string{nil, {"Bearer mine"}} {
			for _, step := range []struct {
				path  string
				hangs bool
			}{{"/cis/before", false}, {"/cis/hangs", true}, {"/cis/next", false}, {"/cis/after", false}} {
				hangs.Store(step.hangs)
				if err := call(step.path, header...); (err != nil) != step.hangs {
					t.Errorf("%s: got error %v", step.path, err)
				}
			}
			hangs.Store(false)
			if err := call("/risk/token"); err != nil { // requests a token: its connection is not given up
				t.Error(err)
			}
			if want := []string{"/cis/next"}; !slices.Equal(*closed, want) {
				t.Errorf("got Close in %v; want it in %v", *closed, want)
			}
			*closed = nil
			time.Sleep(time.Minute)
		}
	})
}

func TestATokenRequestThatTimesOutGivesUpItsConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var hangs atomic.Bool
		rt, closed := closing(srv, &hangs)
		hangs.Store(true)
		time.AfterFunc(10*time.Second, func() { hangs.Store(false) })
		begun := time.Now()
		if _, err := srv.Config().TokenSource(kit.Over(t.Context(), rt)).Token(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); len(*closed) != 1 || took > 11*time.Second {
			t.Errorf("got Close in %d requests, and a token after %s; want it in the second attempt, and a token after 11s at most", len(*closed), took)
		}
	})
}

func TestAReplyOf421IsTriedAgainOverAnotherConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var hangs atomic.Bool
		rt, closed := closing(srv, &hangs)
		srv.FailNext(1, mosaictest.Fault{Status: http.StatusMisdirectedRequest})
		if _, err := srv.Config().Token(kit.Over(t.Context(), rt)); err != nil || len(*closed) != 1 {
			t.Errorf("got error %v, and Close in %d requests; want a token with the second attempt", err, len(*closed))
		}
	})
}

func TestTheDefaultTransportIsLookedUpAtEachRequest(t *testing.T) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, new(http.Client))
	src, client := srv.Config().TokenSource(ctx), srv.Config().Client(ctx)
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	http.DefaultTransport = srv.Client().Transport
	if _, err := src.Token(); err != nil {
		t.Error(err)
	}
	if err := kit.Fetch(client, srv.Endpoint().URL("/cis/x"), http.StatusOK); err != nil {
		t.Error(err)
	}
}

// A forgetful connection loses what is written to it once it is forgotten.
type forgetful struct {
	net.Conn
	forgotten atomic.Bool
}

func (c *forgetful) Write(p []byte) (int, error) {
	if c.forgotten.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestDuringARotationTheConnectionOfEachCertificateIsGivenUp(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	rt := srv.Client().Transport.(*http.Transport).Clone()
	var mu sync.Mutex
	var conns []*forgetful
	rt.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, &forgetful{Conn: conn})
		return conns[len(conns)-1], err
	}
	conf := kit.CertificateClient(t, srv, "acme")
	creds := mosaic.Credentials{Certificate: conf.Certificate}
	conf.Certificate, conf.GetCredentials = nil, func(context.Context) (mosaic.Credentials, error) { return creds, nil }
	client := conf.Client(kit.Over(t.Context(), rt))
	call := func(path string, limit time.Duration) error {
		client := *client
		client.Timeout = limit
		return kit.Fetch(&client, conf.Endpoint.URL(path), http.StatusOK)
	}
	if err := call("/cis/first", 0); err != nil {
		t.Fatal(err)
	}
	creds.Certificate = kit.Certificate(t, "acme", kit.NewEC(t), nil)
	srv.RegisterCertificate("acme", creds.Certificate.Leaf)
	for _, path := range []string{"/risk/second", "/cis/first"} {
		if err := call(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	for _, c := range conns {
		c.forgotten.Store(true)
	}
	mu.Unlock()
	var calls sync.WaitGroup
	for path, limit := range map[string]time.Duration{"/cis/first": 100 * time.Millisecond, "/risk/second": 200 * time.Millisecond} {
		calls.Go(func() {
			if err := call(path, limit); err == nil {
				t.Errorf("%s: got a reply over a dead connection", path)
			}
		})
	}
	calls.Wait()
	for _, path := range []string{"/cis/first", "/risk/second"} {
		if err := call(path, 5*time.Second); err != nil { // health checks would take 15 s and more
			t.Errorf("%s: got error %v; want a new connection", path, err)
		}
	}
}
