// Package mosaictest is a stand-in for Transmit Security's Mosaic, for tests of
// code that calls Mosaic through package mosaic: a token endpoint and the APIs
// behind it, started in the test's own process with one call.
//
//	func TestRecommendation(t *testing.T) {
//		srv := mosaictest.NewServer()
//		defer srv.Close()
//
//		cfg := srv.Config()
//		cfg.Resource = mosaic.FraudPrevention
//		client := cfg.Client(srv.Context(t.Context()))
//
//		resp, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
//		// ...
//	}
//
// It is strict where Mosaic or the RFCs are: a wrong secret, a resource that
// nobody registered, a token that has expired or is for another service are
// refused with the status and error code that a client has to cope with. What
// goes wrong in production is set up in one line: [Server.Fail],
// [Server.SetSkew], [Server.SetLatency], [Server.Revoke], [Server.SetSecret].
//
// Every path but the token endpoint's (/oidc/token and /cis/oidc/token) and the
// signing keys' (/cis/oidc/jwks) is a protected API. A valid token gets to the
// handler that the test has mounted with [Server.Handle]; where there is none,
// the answer is a JSON object that says what arrived: "method", "path" (with the
// query), "audience", "client_id", "scope", "jti" and "exp", all but the first two
// from the token.
//
// It is NOT a description of Mosaic beyond what Mosaic documents, and not
// suitable for use outside of tests: it checks what is sent, and protects
// nothing. Misuse by the test itself, such as a JWK Set that does not parse,
// is a panic.
package mosaictest

// What package mosaic does, such as the table of services or reading a JWK Set,
// is written here once more: the stand-in is to notice where that is wrong.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"example.com/mosaic"
	"golang.org/x/oauth2"
)

// clientID is the registered client's, as in the decoded example of an access
// token in Mosaic's documentation.
const clientID = "pVEZaxjhbdshcudsLe"

// crowd is how many requests can be under way at a time before net/http dials,
// or throws away, connections for their sake. With its own limits (250 streams,
// 2 idle connections), 5,000 concurrent requests are mostly handshakes: they take
// 7 seconds instead of 0.4.
const crowd = 10_000

// A Server stands in for one Mosaic environment. Use [NewServer] or
// [NewInMemory]; the zero value is of no use. All methods are safe for
// concurrent use, and what they set takes effect with the next request.
type Server struct {
	http     *httptest.Server
	endpoint mosaic.Endpoint
	end      context.CancelFunc // of every request's context
	apis     http.ServeMux

	mu            sync.Mutex // guards what follows
	settings      settings
	secret        string
	clients       map[string]client
	resources     map[string]bool      // that tokens may be asked for; true: the customer's own
	used          map[string]time.Time // assertions by client and jti, with their end
	fault         *Fault               // until Heal
	faults        []Fault              // of the next token requests, ahead of fault
	tokenRequests []*Request
	apiRequests   []*Request
}

// settings are what a test sets by a single value.
type settings struct {
	lifetime, skew time.Duration
	before, after  time.Duration // see SetLatency
	binding        bool
	kid            string         // of the signing key; tokens with another are revoked
	caNames        *x509.CertPool // to name in TLS handshakes; nil for none
}

func (s *Server) set(change func(*settings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.settings)
}

func (s *Server) current() settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// NewServer starts a Server that listens on a port of the loopback interface
// and speaks TLS, with HTTP/1.1 or HTTP/2 as the client wishes. The caller
// closes it when finished.
func NewServer() *Server {
	hs := httptest.NewUnstartedServer(nil)
	hs.EnableHTTP2 = true
	return start(hs)
}

// NewInMemory starts a Server that has no socket, so that it works in a
// testing/synctest bubble, where hours of a token's life pass in no time and
// its answers take none. Its endpoint is https://example.com; only
// [Server.Client], or a clone of its transport, reaches it, under that name and
// every subdomain, and it reaches nothing else. The caller closes it, in the
// bubble that it was made in; a response's body that is left open keeps the
// bubble from ending.
//
// It speaks TLS as NewServer's does, but HTTP/1.1 only: in Go 1.25, net/http's
// HTTP/2 servers share channels, and a channel must not leave its bubble.
func NewInMemory() *Server {
	l := newPipeListener("example.com:443")
	s := start(&httptest.Server{Listener: l, Config: new(http.Server)})
	s.http.Client().Transport.(*http.Transport).DialContext = l.dial
	return s
}

func start(hs *httptest.Server) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		http:     hs,
		end:      cancel,
		clients:  make(map[string]client),
		used:     make(map[string]time.Time),
		settings: settings{lifetime: time.Hour, kid: rand.Text()}, // an hour as Mosaic's
		resources: map[string]bool{
			string(mosaic.IdentityVerification): false,
			string(mosaic.FraudPrevention):      false,
			string(mosaic.DataValidation):       false,
		},
	}
	s.SetSecret(rand.Text())

	hs.Config.Handler = http.HandlerFunc(s.serve)
	hs.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	hs.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are what some tests are about
	hs.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: crowd}
	hs.TLS = s.tlsConfig(hs.EnableHTTP2)
	hs.StartTLS()
	transport := hs.Client().Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = crowd
	transport.TLSClientConfig.CurvePreferences = []tls.CurveID{tls.CurveP256} // see serverCertificate

	endpoint, err := mosaic.ParseEndpoint(hs.URL)
	if err != nil {
		panic("mosaictest: " + err.Error())
	}
	s.endpoint = endpoint
	return s
}

// tlsConfig asks for a client certificate and leaves its verification to the
// token endpoint, which answers a bad one with an error that can be read.
func (s *Server) tlsConfig(http2 bool) *tls.Config {
	config := &tls.Config{
		Certificates: []tls.Certificate{serverCertificate()},
		ClientAuth:   tls.RequestClientCert,
		NextProtos:   []string{"http/1.1"},
	}
	if http2 {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	base := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = s.current().caNames
		return c, nil
	}
	return config
}

// serverCertificate is made once per process. Together with a key exchange that
// is P-256's too, it makes a handshake three times cheaper than httptest's RSA
// certificate does (0.5 ms for 1.6; with -race 1.6 for 5.7), and a crowd of
// clients shakes hands thousands of times. A bubble's clock starts in the year
// 2000, hence the validity.
var serverCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("mosaictest: " + err.Error())
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"example.com", "*.example.com"}, // as httptest's
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    time.Date(1970, time.January, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2100, time.January, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic("mosaictest: " + err.Error())
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// Close shuts the server down: it breaks off the requests that hang or wait
// ([Fault], [Server.SetLatency]), ends the context of those that are at a
// mounted handler, and blocks until all are completed. Idle connections are
// closed on both sides.
func (s *Server) Close() {
	s.end()
	s.http.Close()
}

// Endpoint returns the server's base URL, for [mosaic.Config] and for the URLs
// of API calls.
func (s *Server) Endpoint() mosaic.Endpoint { return s.endpoint }

// Config returns a new Config of a client that is registered with a secret,
// the one that [Server.SetSecret] set last. The secret is random: another
// server does not know it.
func (s *Server) Config() *mosaic.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &mosaic.Config{ClientID: clientID, ClientSecret: s.secret, Endpoint: s.endpoint}
}

// Context returns a copy of parent that carries [Server.Client] under
// [oauth2.HTTPClient], where package mosaic and all of x/oauth2 look for it.
func (s *Server) Context(parent context.Context) context.Context {
	return context.WithValue(parent, oauth2.HTTPClient, s.Client())
}

// Client returns the HTTP client that reaches the server and trusts its
// certificate. It adds no token. It is the same one each time, and its
// Transport is an *http.Transport, to be cloned by whoever needs another.
func (s *Server) Client() *http.Client { return s.http.Client() }

// SetLifetime sets how long tokens live that are issued from now on, in whole
// seconds: what is left over is dropped. The default is one hour, as Mosaic's.
// With zero or less, tokens have expired when they arrive.
func (s *Server) SetLifetime(d time.Duration) { s.set(func(c *settings) { c.lifetime = d }) }

// SetSkew sets how far the server's clock is ahead of the local one (negative:
// behind). All that it writes and checks goes by its own clock: iat, exp, the
// Date header, the end of tokens and of client assertions.
func (s *Server) SetSkew(d time.Duration) { s.set(func(c *settings) { c.skew = d }) }

// now is the time by the server's own clock.
func (s *Server) now() time.Time { return time.Now().Add(s.current().skew) }

// date is now, as a Date header.
func (s *Server) date() string { return s.now().UTC().Format(http.TimeFormat) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", s.date())
	switch r.URL.Path {
	case "/oidc/token", "/cis/oidc/token":
		s.serveToken(w, r)
	default:
		s.serveAPI(w, r)
	}
}
