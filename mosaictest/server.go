package mosaictest

// This package has its own copy of package mosaic's knowledge, such as the table of services, to
// notice a mistake there.

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mosaic"
	"golang.org/x/oauth2"
)

// clientID is from the decoded access token in Mosaic's documentation.
const clientID = "pVEZaxjhbdshcudsLe"

// crowd bounds the requests in flight. With net/http's own limits (250 streams, 2 idle connections)
// 5,000 concurrent requests are mostly handshakes and take 7 s instead of 0.4 s.
const crowd = 10_000

// A Server simulates one Mosaic environment. [Start], [NewServer] and [NewInMemory] make one. All
// methods are safe for concurrent use. Settings apply from the next request on.
//
// The server panics on misuse by the test:
//   - [Server.SetSecret], [Server.AddSecret] or [Server.RegisterSecret] with an empty secret
//   - AddSecret with an active secret, with a third one, or after a registration without a secret
//   - [Server.RevokeSecret] with an inactive secret, or with the last one
//   - [Server.RegisterKey] with an invalid JWK Set, without keys, or with a private key
//   - [Server.RegisterCertificate] or [Server.RegisterCA] with nil
//   - any registration with an empty client ID
//   - [Server.ServeAs] with a name refused by [mosaic.ParseEndpoint]
//   - a [Fault] with a Status other than zero or 200 to 999
//   - [Server.Handle] with a pattern refused by [http.ServeMux]
type Server struct {
	http     *httptest.Server
	endpoint mosaic.Endpoint
	end      context.CancelFunc // cancels every request

	mu sync.Mutex // guards the following
	settings
	clients       map[string]client
	resources     map[mosaic.Resource]bool // configured for the application
	used          map[string]time.Time     // exp of assertions, by client and jti
	revoked       map[string]bool          // access tokens
	served        map[string]string        // names of ServeAs, by address
	handlers      map[string]http.Handler  // by pattern
	fault         http.Handler             // until Heal; nil: none
	faults        []http.Handler           // of the next token requests, before fault
	tokenRequests []*Request
	apiRequests   []*Request
}

// settings are copied by current. Their fields are replaced or appended to, and nothing behind them
// is modified, so the copy stays valid.
type settings struct {
	lifetime, skew time.Duration
	before, after  time.Duration // see SetLatency
	binding        bool
	issuerOnly     bool            // in the aud of assertions
	kid            string          // of the signing key; tokens with another are revoked
	caNames        [][]byte        // in TLS handshakes
	certificate    tls.Certificate // of the server
	change         func(claims map[string]any)
	apis           *http.ServeMux // of Server.handlers
}

// set calls change with mu locked.
func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *Server) current() settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// Start calls [NewServer], and closes the server when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := NewServer()
	t.Cleanup(s.Close)
	return s
}

// NewServer starts a Server on a port of the loopback interface. It speaks HTTP/1.1 and HTTP/2 over
// TLS. The caller closes it.
func NewServer() *Server {
	hs := httptest.NewUnstartedServer(nil)
	hs.EnableHTTP2 = true
	return start(hs, new(net.Dialer).DialContext)
}

// NewInMemory starts a Server without a socket, for a testing/synctest bubble. Its answers take no
// time. In FIPS mode a bubble is no place for it: see the package comment. Close it in the same bubble, and last: see [Server.Close]. Close response bodies, too; the
// bubble cannot end with an open one.
//
// Its endpoint is https://example.com. It also answers for subdomains of example.com and for the
// names of [Server.ServeAs]. Only [Server.Client] and clones of its transport reach the server, and
// they reach nothing else. The server speaks HTTP/1.1 only: net/http's HTTP/2 servers share
// channels, and a channel must not leave its bubble.
func NewInMemory() *Server {
	l := newPipeListener("example.com:443")
	return start(&httptest.Server{Listener: l, Config: new(http.Server)}, l.dial)
}

func start(hs *httptest.Server, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		http:      hs,
		end:       cancel,
		clients:   map[string]client{clientID: {secrets: []string{rand.Text()}}},
		resources: make(map[mosaic.Resource]bool),
		used:      make(map[string]time.Time),
		revoked:   make(map[string]bool),
		served:    make(map[string]string),
		handlers:  make(map[string]http.Handler),
		settings: settings{
			lifetime:    time.Hour, // as Mosaic's
			kid:         rand.Text(),
			certificate: authority(),
			apis:        new(http.ServeMux),
		},
	}
	for _, r := range services {
		s.resources[r] = true
	}

	hs.Config.Handler = http.HandlerFunc(s.serve)
	hs.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	hs.Config.ErrorLog = log.New(panics{}, "mosaictest: ", 0)
	hs.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: crowd}
	hs.TLS = &tls.Config{
		Certificates: []tls.Certificate{authority()},
		ClientAuth:   tls.RequestClientCert, // the token endpoint verifies it, with a readable error
	}
	hs.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c, current := hs.TLS.Clone(), s.current()
		c.Certificates, c.ClientCAs = []tls.Certificate{current.certificate}, x509.NewCertPool()
		for _, name := range current.caNames {
			c.ClientCAs.AddCert(&x509.Certificate{Raw: name, RawSubject: name})
		}
		return c, nil
	}
	hs.StartTLS()
	transport := hs.Client().Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = crowd
	transport.TLSClientConfig.CurvePreferences = []tls.CurveID{tls.CurveP256} // see authority
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(ctx, network, s.address(addr))
	}

	s.endpoint = must(mosaic.ParseEndpoint(hs.URL))
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("mosaictest: " + strings.TrimPrefix(err.Error(), "mosaic: "))
	}
	return v
}

// panics logs the panics of handlers, and no failed handshake: some tests are about those.
type panics struct{}

func (panics) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("panic serving")) {
		return os.Stderr.Write(p)
	}
	return len(p), nil
}

// Close shuts the server down and blocks until all requests are completed. It cancels their
// contexts. Idle connections are closed on both sides.
//
// In a testing/synctest bubble Close then sleeps for 30 seconds, the longest time that a token
// request takes. A token request can outlive its caller, and a bubble must not end before it.
func (s *Server) Close() {
	s.end()
	s.http.Close()
	if now := time.Now(); now == now.Round(0) { // only a bubble's clock has no monotonic reading
		time.Sleep(30 * time.Second)
	}
}

// Endpoint returns the server's base URL, for [mosaic.Config] and for URLs of API calls.
func (s *Server) Endpoint() mosaic.Endpoint { return s.endpoint }

// Config returns a new Config of a registered client, with its newest secret. The first secret is
// random; see [Server.SetSecret] and [Server.AddSecret]. The Config has no secret if its client ID
// was registered with a key or a certificate.
func (s *Server) Config() *mosaic.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	conf := &mosaic.Config{ClientID: clientID, Endpoint: s.endpoint}
	if secrets := s.clients[clientID].secrets; len(secrets) > 0 {
		conf.ClientSecret = secrets[len(secrets)-1]
	}
	return conf
}

// Context returns a copy of parent with [Server.Client] as its [oauth2.HTTPClient], for package
// mosaic and x/oauth2. Calls without it go to the network.
func (s *Server) Context(parent context.Context) context.Context {
	return context.WithValue(parent, oauth2.HTTPClient, s.Client())
}

// Client returns the server's HTTP client, the same one each time. It trusts the server's
// certificate and adds no token. Its Transport is an *http.Transport; clone it before a change.
func (s *Server) Client() *http.Client { return s.http.Client() }

// SetSkew sets the server's clock ahead of the local clock by d, or behind it if d is negative. The
// server writes and checks all times by its own clock: iat and exp of tokens and client assertions,
// and the Date header. The default is zero.
func (s *Server) SetSkew(d time.Duration) { s.set(func() { s.skew = d }) }

// now is the time by the server's own clock.
func (s *Server) now() time.Time { return time.Now().Add(s.current().skew) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // net/http then notices when the client gives up
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	setDate(w, s.now())
	switch r.URL.Path {
	case "/oidc/token", "/cis/oidc/token":
		s.serveToken(w, r, body)
	default:
		s.serveAPI(w, r, body)
	}
}

func setDate(w http.ResponseWriter, t time.Time) {
	w.Header().Set("Date", t.UTC().Format(http.TimeFormat))
}
