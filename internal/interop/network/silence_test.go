package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// A nat forwards connections until it forgets them without notice, as a NAT or a failover does.
type nat struct {
	via func(ctx context.Context, network, address string) (net.Conn, error) // nil means net.Dialer's

	mu    sync.Mutex
	conns []*natConn
}

// dial is for a transport's DialContext.
func (n *nat) dial(ctx context.Context, network, address string) (net.Conn, error) {
	via := n.via
	if via == nil {
		via = new(net.Dialer).DialContext
	}
	c, err := via(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	conn := &natConn{Conn: c, closed: make(chan struct{})}
	n.conns = append(n.conns, conn)
	return conn, nil
}

// forget lets the connections of today die. Later ones live.
func (n *nat) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.forgotten.Store(true)
	}
}

func (n *nat) dialed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// A natConn swallows writes once it is forgotten, and its reads block until the kernel gives up.
type natConn struct {
	net.Conn
	forgotten  atomic.Bool
	lost, once sync.Once
	closed     chan struct{}
}

// kernelPatience is how long Linux sends lost data again (tcp_retries2 is 15).
const kernelPatience = 924 * time.Second

func (c *natConn) Write(p []byte) (int, error) {
	if c.forgotten.Load() {
		c.lost.Do(func() { time.AfterFunc(kernelPatience, func() { c.Close() }) })
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *natConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		switch {
		case !c.forgotten.Load() || errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case err != nil: // nor does the peer's close arrive
			<-c.closed
			return 0, net.ErrClosed
		}
	}
}

func (c *natConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestASlowAPICostsFewHandshakes(t *testing.T) {
	t.Parallel()
	srv, n := mosaictest.Start(t), new(nat)
	srv.Handle("/cis/v1/slow", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	transport := speaking(t, "HTTP/2", srv)
	transport.DialContext = n.dial
	client := srv.Config().Client(kit.Over(t.Context(), transport))
	client.Timeout = time.Second
	begun := time.Now()
	for range 8 {
		if err := call(t.Context(), client, srv.Endpoint().URL("/cis/v1/slow")); err == nil {
			t.Fatal("a slow call got its reply")
		}
	}
	// Giving up a connection costs two: net/http uses the connection of a request with Close once.
	if most := 3 + 2*int(time.Since(begun)/(5*time.Second)); n.dialed() > most {
		t.Errorf("%d connections were dialed; want %d at most", n.dialed(), most)
	}
}

func TestACallThatIsCancelledKeepsItsConnection(t *testing.T) {
	t.Parallel()
	srv, n := mosaictest.Start(t), new(nat)
	srv.Handle("/cis/v1/slow", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	transport := speaking(t, "HTTP/2", srv)
	transport.DialContext = n.dial
	client := srv.Config().Client(kit.Over(t.Context(), transport))
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		if err := call(ctx, client, srv.Endpoint().URL("/cis/v1/slow")); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v; want the call cancelled", err)
		}
	}
	if n.dialed() != 1 {
		t.Errorf("%d connections were dialed; want one", n.dialed())
	}
}

func call(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// The peers do not recover from a dead HTTP/2 connection. If this test fails because one does,
// docs/comparison.md has to change.
func TestADeadConnectionBesideThePeers(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(issuer(12 * time.Second))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	for name, peer := range peers(t, srv.URL) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n nat
			transport := srv.Client().Transport.(*http.Transport).Clone()
			t.Cleanup(transport.CloseIdleConnections)
			transport.DialContext = n.dial
			src := peer(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: 3 * time.Second}))
			if _, err := src.Token(); err != nil {
				t.Fatal(err)
			}
			n.forget()
			calls, failed := 0, 0
			var last error
			kit.Every(100*time.Millisecond, 30*time.Second, func() {
				calls++
				if _, last = src.Token(); last != nil {
					failed++
				}
			})
			t.Logf("%d of %d calls failed", failed, calls)
			if alive := last == nil; alive != (name == "mosaic") {
				t.Errorf("in the end got %v; want a token from mosaic only", last)
			}
		})
	}
}

// onVersions runs test over each version of HTTP, with and without a certificate. The transport's
// connections go through n.
func onVersions(t *testing.T, test func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat)) {
	for version := range versions {
		for _, certificate := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, certificate: %t", version, certificate), func(t *testing.T) {
				t.Parallel()
				srv := mosaictest.Start(t)
				conf, transport, n := srv.Config(), speaking(t, version, srv), new(nat)
				transport.DialContext = n.dial
				if certificate {
					conf = kit.CertificateClient(t, srv, "acme")
				}
				test(t, srv, conf, transport, n)
			})
		}
	}
}

func TestASecondAttemptGetsATokenDespiteADeadConnection(t *testing.T) {
	t.Parallel()
	onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
		src := conf.TokenSource(kit.Over(t.Context(), transport))
		tok, err := src.Token()
		if err != nil {
			t.Fatal(err)
		}
		n.forget()
		src.Invalidate(tok)
		if _, err := src.Token(); err != nil || n.dialed() != 2 {
			t.Errorf("got %v over %d connections; want a token over the second", err, n.dialed())
		}
	})
}

func TestConfigTokenLeavesADeadConnection(t *testing.T) {
	t.Parallel()
	for version := range versions { // with a certificate each call has a connection of its own
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv, n := mosaictest.Start(t), new(nat)
			transport := speaking(t, version, srv)
			transport.DialContext = n.dial
			for range 2 {
				if _, err := srv.Config().Token(kit.Over(t.Context(), transport)); err != nil {
					t.Error(err)
				}
				n.forget()
			}
		})
	}
}

func TestAThirdAttemptGetsATokenIfACallHangsOnTheDeadConnection(t *testing.T) {
	t.Parallel()
	srv, n := mosaictest.Start(t), new(nat)
	transport := speaking(t, "HTTP/2", srv)
	transport.DialContext = n.dial
	src := srv.Config().TokenSource(kit.Over(t.Context(), transport))
	tok, err := src.Token()
	if err != nil {
		t.Fatal(err)
	}
	n.forget()
	hang(t, &http.Client{Transport: transport}, srv.Endpoint().URL("/cis/oidc/jwks"))
	src.Invalidate(tok)
	if _, err := src.Token(); err != nil {
		t.Error(err)
	}
}

// hang calls url and lets the call hang until the test ends.
func hang(t *testing.T, client *http.Client, url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	sent, done := make(chan struct{}), make(chan struct{})
	trace := httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }}
	go func() {
		defer close(done)
		if res, err := client.Do(req.WithContext(httptrace.WithClientTrace(ctx, &trace))); err == nil {
			res.Body.Close()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	<-sent
}

func TestWithAShortTimeoutOneTokenRequestFailsAndTheNextRecovers(t *testing.T) {
	t.Parallel()
	onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
		src := conf.TokenSource(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: 5 * time.Second}))
		tok, err := src.Token()
		if err != nil {
			t.Fatal(err)
		}
		n.forget()
		src.Invalidate(tok)
		if _, err := src.Token(); err == nil {
			t.Error("the first request got a token; want none over the dead connection")
		}
		if _, err := src.Token(); err != nil {
			t.Error(err)
		}
	})
}

func TestACallOfClientLeavesADeadConnection(t *testing.T) {
	t.Parallel()
	for what, limit := range map[string]func(*http.Transport, *http.Client){
		"ResponseHeaderTimeout": func(transport *http.Transport, _ *http.Client) { transport.ResponseHeaderTimeout = patience },
		"the client's Timeout":  func(_ *http.Transport, client *http.Client) { client.Timeout = patience },
		"a deadline":            func(*http.Transport, *http.Client) {},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
				client, url := new(http.Client), srv.Endpoint().URL("/cis/v1/users")
				limit(transport, client)
				client.Transport = conf.Client(kit.Over(t.Context(), transport)).Transport
				if err := kit.Fetch(client, url, http.StatusOK); err != nil {
					t.Fatal(err)
				}
				n.forget()
				checkLast(t, client, url, 2)
			})
		})
	}
}

func TestAThirdCallGetsItsReplyIfAnotherHangsOnTheDeadConnection(t *testing.T) {
	t.Parallel()
	for _, certificate := range []bool{false, true} {
		t.Run(fmt.Sprintf("certificate: %t", certificate), func(t *testing.T) {
			t.Parallel()
			srv, n := mosaictest.Start(t), new(nat)
			conf, transport := srv.Config(), speaking(t, "HTTP/2", srv)
			transport.DialContext = n.dial
			if certificate {
				conf = kit.CertificateClient(t, srv, "acme")
			}
			client, url := conf.Client(kit.Over(t.Context(), transport)), srv.Endpoint().URL("/cis/v1/users")
			if err := kit.Fetch(client, url, http.StatusOK); err != nil {
				t.Fatal(err)
			}
			n.forget()
			hang(t, client, url)
			checkLast(t, client, url, 3)
		})
	}
}

const patience = 3 * time.Second

// checkLast makes calls with a deadline. The first fails, as its connection is dead, and the last
// gets its reply.
func checkLast(t *testing.T, client *http.Client, url string, calls int) {
	t.Helper()
	var errs []error
	for range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		errs = append(errs, call(ctx, client, url))
		cancel()
	}
	if errs[0] == nil || errs[calls-1] != nil {
		t.Errorf("got %v; want the first to fail and the last to get its reply", errs)
	}
}

func TestNoCallOfASourceFailsWhenItsConnectionDies(t *testing.T) {
	t.Parallel()
	onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
		srv.SetLifetime(40 * time.Second)
		src := conf.TokenSource(kit.Over(t.Context(), transport))
		if _, err := src.Token(); err != nil {
			t.Fatal(err)
		}
		n.forget()
		kit.Every(100*time.Millisecond, 45*time.Second, func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := src.TokenContext(ctx); err != nil {
				t.Error(err)
			}
		})
		if n.dialed() != 2 {
			t.Errorf("%d connections were dialed; want 2", n.dialed())
		}
	})
}

func TestManyCallsOfClientLeaveADeadConnection(t *testing.T) {
	t.Parallel()
	onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
		client, url := conf.Client(kit.Over(t.Context(), transport)), srv.Endpoint().URL("/cis/v1/users")
		if err := kit.Fetch(client, url, http.StatusOK); err != nil {
			t.Fatal(err)
		}
		client.Timeout = 4 * time.Second
		var wg sync.WaitGroup
		n.forget()
		for range 8 {
			wg.Go(func() {
				failures := 0
				kit.Every(50*time.Millisecond, 20*time.Second, func() {
					if kit.Fetch(client, url, http.StatusOK) != nil {
						failures++
					}
				})
				if failures > 3 {
					t.Errorf("%d calls failed in a row; want 3 at most", failures)
				}
			})
		}
		wg.Wait()
	})
}

func TestA421IsNotAnsweredOverTheSameConnection(t *testing.T) {
	t.Parallel()
	misdirected := mosaictest.Fault{Status: http.StatusMisdirectedRequest}
	onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
		srv.FailNext(1, misdirected)
		client := conf.Client(kit.Over(t.Context(), transport))
		if err := kit.Fetch(client, srv.Endpoint().URL("/cis/v1/users"), http.StatusOK); err != nil || n.dialed() < 2 {
			t.Errorf("got %v over %d connections; want a reply over another", err, n.dialed())
		}
	})
	t.Run("of an API", func(t *testing.T) {
		onVersions(t, func(t *testing.T, srv *mosaictest.Server, conf *mosaic.Config, transport *http.Transport, n *nat) {
			srv.Handle("/cis/v1/moved", misdirected)
			client := conf.Client(kit.Over(t.Context(), transport))
			for _, err := range []error{
				kit.Fetch(client, srv.Endpoint().URL("/cis/v1/moved"), http.StatusMisdirectedRequest),
				kit.Fetch(client, srv.Endpoint().URL("/cis/v1/users"), http.StatusOK),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if n.dialed() < 2 {
				t.Errorf("%d connections were dialed; want a second", n.dialed())
			}
		})
	})
}
