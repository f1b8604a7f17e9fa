package network

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
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/jwt"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// A nat forwards connections until it forgets them without notice, as a NAT or a failover does.
type nat struct {
	mu    sync.Mutex
	conns []*natConn
}

// dial is for a transport's DialContext.
func (n *nat) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
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

// A natConn swallows writes once it is forgotten, and its reads block.
type natConn struct {
	net.Conn
	forgotten atomic.Bool
	once      sync.Once
	closed    chan struct{}
}

func (c *natConn) Write(p []byte) (int, error) {
	if c.forgotten.Load() {
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
	client.Timeout = 200 * time.Millisecond
	begun := time.Now()
	for range 15 {
		if err := call(t.Context(), client, srv.Endpoint().URL("/cis/v1/slow")); err == nil {
			t.Fatal("a slow call got its reply")
		}
	}
	if most := 2 + int(time.Since(begun)/(5*time.Second)); n.dialed() > most {
		t.Errorf("%d connections were dialed; want one, and one more in five seconds", n.dialed())
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

// x/oauth2 does not recover from a dead HTTP/2 connection. If this test fails because it does,
// docs/comparison.md has to change.
func TestADeadConnectionBesideThePeers(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"opaque","token_type":"Bearer","expires_in":12}`)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	endpoint, err := mosaic.ParseEndpoint(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, peer := range map[string]struct {
		source func(context.Context) oauth2.TokenSource
		alive  bool // in the end
	}{
		"clientcredentials": {func(ctx context.Context) oauth2.TokenSource {
			return (&clientcredentials.Config{ClientID: "acme", ClientSecret: "secret", TokenURL: endpoint.TokenURL()}).TokenSource(ctx)
		}, false},
		"the JWT source of Google's service accounts": {func(ctx context.Context) oauth2.TokenSource {
			return (&jwt.Config{Email: "acme", PrivateKey: kit.KeyPEM(t, kit.RSA()), TokenURL: endpoint.TokenURL()}).TokenSource(ctx)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n nat
			transport := srv.Client().Transport.(*http.Transport).Clone()
			t.Cleanup(transport.CloseIdleConnections)
			transport.DialContext = n.dial
			src := peer.source(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: 2 * time.Second}))
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
			if alive := last == nil; alive != peer.alive {
				t.Errorf("in the end got %v; want a token: %t", last, peer.alive)
			}
		})
	}
}
