package mosaictest

// This package repeats facts about Mosaic that package mosaic also has, such as the table of services.
// If one of the packages has a fact wrong, tests that use both of them fail.

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

// clientID is the client_id of the decoded access token in Mosaic's documentation.
const clientID = "pVEZaxjhbdshcudsLe"

// crowd is how many streams a connection may have, and how many idle connections the client keeps.
// With net/http's own limits of 250 streams and 2 idle connections, 5,000 concurrent requests take
// 7 s instead of 0.4 s, because most of them need a handshake.
const crowd = 10_000

// A Server simulates one Mosaic environment. Use [Start], [NewServer] or [NewInMemory] to make a
// Server, because the zero Server is not usable.
//
// All methods are safe for concurrent use. A setting applies to all requests that arrive after the
// method has returned. If a test calls a method wrongly, for example with an empty secret, the
// method panics.
type Server struct {
	http     *httptest.Server
	endpoint mosaic.Endpoint
	end      context.CancelFunc // cancels the context of every request

	mu sync.Mutex // guards the fields below
	settings
	clients       map[string]client        // by client ID
	resources     map[mosaic.Resource]bool // those configured for the application
	used          map[string]time.Time     // the exp of each used assertion, by client ID and jti
	revoked       map[string]bool          // by access token
	served        map[string]string        // the names set by ServeAs, by address
	handlers      map[string]http.Handler  // by pattern
	fault         http.Handler             // answers every token request until Heal; may be nil
	faults        []http.Handler           // answer the next token requests, before fault does
	tokenRequests []*Request
	apiRequests   []*Request
}

// The method current returns a copy of the settings, which is used without the lock. A method may
// therefore replace a field or append to caNames, but must not modify what a field refers to.
type settings struct {
	lifetime, skew time.Duration
	before, after  time.Duration // see SetLatency
	binding        bool
	issuerOnly     bool            // see AcceptIssuerOnly
	kid            string          // of the signing key; a token with another kid has been revoked
	caNames        [][]byte        // the subjects that TLS handshakes name as acceptable CAs
	certificate    tls.Certificate // the server's own
	change         func(claims map[string]any)
	apis           *http.ServeMux // routes to Server.handlers
}

// set calls the given function with mu held.
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

// Start starts a Server as [NewServer] does, and closes it when the test and its subtests end.
func Start(t testing.TB) *Server {
	t.Helper()
	s := NewServer()
	t.Cleanup(s.Close)
	return s
}

// NewServer starts a Server on a free port of the loopback interface. The server speaks HTTP/1.1 and
// HTTP/2 over TLS. The caller should call [Server.Close] when finished. [Start] does that for you.
func NewServer() *Server {
	hs := httptest.NewUnstartedServer(nil)
	hs.EnableHTTP2 = true
	return start(hs, new(net.Dialer).DialContext)
}

// NewInMemory starts a Server that needs no socket, so that it can be used in a testing/synctest
// bubble. By the bubble's clock, its responses take no time. For FIPS 140-3 mode, see the package
// comment.
//
// The test must close the server in the same bubble, after everything else (see [Server.Close]). It
// must also close all response bodies. Otherwise synctest panics when the test ends ("deadlock").
//
// The server's endpoint is https://example.com. The server also answers for the subdomains of
// example.com and for the names set with [Server.ServeAs]. Only [Server.Client] and clones of its
// transport can reach the server, and they can reach nothing else.
//
// The server speaks only HTTP/1.1, because net/http's HTTP/2 servers share channels, and a channel
// made in a bubble must not be used outside it.
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
			lifetime:    time.Hour, // as in Mosaic
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
		ClientAuth:   tls.RequestClientCert, // verified only by the token endpoint, which can say what is wrong
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

// panics prints panics in the test's handlers but not failed handshakes, which some tests cause on
// purpose.
type panics struct{}

func (panics) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("panic serving")) {
		return os.Stderr.Write(p)
	}
	return len(p), nil
}

// Close shuts down the server. It cancels the contexts of all requests and blocks until the requests
// have ended. It also closes the idle connections of [Server.Client].
//
// In a testing/synctest bubble, Close then sleeps for 30 seconds by the bubble's clock. A token
// request from package mosaic can outlive its caller by that long, and the bubble must not end before
// the token request does.
func (s *Server) Close() {
	s.end()
	s.http.Close()
	if now := time.Now(); now == now.Round(0) { // only a bubble's clock has no monotonic reading
		time.Sleep(30 * time.Second)
	}
}

// Endpoint returns the server's base URL. Use it as the Endpoint of a [mosaic.Config], and to make
// the URLs of API calls.
func (s *Server) Endpoint() mosaic.Endpoint { return s.endpoint }

// Config returns a new Config for a client that is registered with the server. The Config has the
// server's Endpoint, the client's ID and its newest secret. The secret is random, unless the test has
// set another, for example with [Server.SetSecret].
//
// If the test has registered the client ID with a key or a certificate, the Config has no secret.
func (s *Server) Config() *mosaic.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	conf := &mosaic.Config{ClientID: clientID, Endpoint: s.endpoint}
	if secrets := s.clients[clientID].secrets; len(secrets) > 0 {
		conf.ClientSecret = secrets[len(secrets)-1]
	}
	return conf
}

// Context returns a copy of parent with [Server.Client] as the value of [oauth2.HTTPClient]. Package
// mosaic and x/oauth2 then use that client. With any other context, they do not trust the server's
// certificate, and cannot reach a server from [NewInMemory].
func (s *Server) Context(parent context.Context) context.Context {
	return context.WithValue(parent, oauth2.HTTPClient, s.Client())
}

// Client returns an HTTP client that trusts the server's certificate. It does not add tokens to
// requests. Every call returns the same client, whose Transport is an [*http.Transport]. To change
// the client or its transport, change a copy.
func (s *Server) Client() *http.Client { return s.http.Client() }

// SetSkew sets the server's clock ahead of the local clock by d, or behind it if d is negative. The
// server uses its clock for the Date header, and for the iat and exp of tokens and client assertions.
// The default is zero.
func (s *Server) SetSkew(d time.Duration) { s.set(func() { s.skew = d }) }

// now returns the time by the server's clock.
func (s *Server) now() time.Time { return time.Now().Add(s.current().skew) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // only then does net/http notice when the client gives up
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
