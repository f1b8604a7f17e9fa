package behaviour_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// A clientWorld is an internet in which every host, on every port, is one
// in-memory stand-in for Mosaic.
type clientWorld struct {
	*mosaictest.Server
	conf      *mosaic.Config // of mosaic.EU
	transport *http.Transport
	spy       *clientSpy // over transport; what Client's own transport is over
	log       *clientLog
	dials     atomic.Int32
}

// newClientWorld returns a world, which ends with the test or the bubble.
func newClientWorld(t *testing.T) *clientWorld {
	t.Helper()
	w := &clientWorld{Server: mosaictest.NewInMemory(), log: new(clientLog)}
	t.Cleanup(w.Close)
	w.conf = w.Config()
	w.conf.Endpoint = mosaic.EU
	w.conf.Logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.transport = w.Client().Transport.(*http.Transport).Clone()
	w.transport.TLSClientConfig.ServerName = "example.com"
	dial := w.transport.DialContext
	w.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		w.dials.Add(1)
		return dial(ctx, network, "example.com:443")
	}
	w.spy = &clientSpy{base: w.transport}
	return w
}

// clientBubble runs test in a bubble with a world of its own, and lets what it
// has begun come to its end.
func clientBubble(t *testing.T, test func(*testing.T, *clientWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, newClientWorld(t))
		time.Sleep(time.Minute)
	})
}

// client returns the client under test.
func (w *clientWorld) client() *http.Client {
	return w.conf.Client(clientContext(&http.Client{Transport: w.spy}))
}

func clientContext(c *http.Client) context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, c)
}

// refuseFirst mounts an API at path that answers 401 to the first token that it
// sees, and "welcome" to every other.
func (w *clientWorld) refuseFirst(path, challenge string) {
	var first atomic.Value
	w.Handle(path, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got := r.Header.Get("Authorization")
		if first.CompareAndSwap(nil, got) || first.Load() == got {
			clientUnauthorized(rw, challenge)
			return
		}
		io.WriteString(rw, "welcome")
	}))
}

// clientUnauthorized answers a 401 as Mosaic's APIs do.
func clientUnauthorized(rw http.ResponseWriter, challenge string) {
	rw.Header()["Www-Authenticate"] = strings.Split(challenge, "\n")
	rw.WriteHeader(http.StatusUnauthorized)
	io.WriteString(rw, clientRefusal)
}

const (
	clientRefusal      = `{"message":["no"],"error_code":401}`
	clientInvalidToken = `Bearer error="invalid_token"`
)

// arrivals returns the API requests that have arrived for this path.
func (w *clientWorld) arrivals(path string) (rs []mosaictest.Request) {
	for _, r := range w.APIRequests() {
		if r.RequestURI == path {
			rs = append(rs, r)
		}
	}
	return rs
}

func (w *clientWorld) wantTokenRequests(t *testing.T, n int) {
	t.Helper()
	synctest.Wait()
	if got := len(w.TokenRequests()); got != n {
		t.Errorf("got %d token requests; want %d", got, n)
	}
}

// warm gets a token for the default audience and lets it grow this old.
func (w *clientWorld) warm(t *testing.T, client *http.Client, age time.Duration) {
	t.Helper()
	clientGet(t, client, mosaic.EU.URL("/cis/warm")).want(t, 0, 200, "")
	time.Sleep(age)
}

// clientResult is what came of a request.
type clientResult struct {
	took time.Duration // until there was a response or an error
	res  *http.Response
	body string
	err  error // of the request, or else of its body
}

func clientDo(client *http.Client, req *http.Request) (r clientResult) {
	begun := time.Now()
	r.res, r.err = client.Do(req)
	r.took = time.Since(begun)
	if r.err == nil {
		var body []byte
		body, r.err = io.ReadAll(r.res.Body)
		r.res.Body.Close()
		r.body = string(body)
	}
	return r
}

func clientGet(t *testing.T, client *http.Client, url string) clientResult {
	t.Helper()
	return clientDo(client, clientRequest(t, "GET", url, nil))
}

func clientRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// want fails t unless the response came after exactly so long, with this status
// and, unless that is empty, body.
func (r clientResult) want(t *testing.T, took time.Duration, status int, body string) {
	t.Helper()
	switch {
	case r.err != nil:
		t.Errorf("got error %v after %s; want status %d after %s", r.err, r.took, status, took)
	case r.res.StatusCode != status || r.took != took:
		t.Errorf("got status %d after %s; want %d after %s", r.res.StatusCode, r.took, status, took)
	case body != "" && r.body != body:
		t.Errorf("got a body of %d bytes; want %d: that of the status %d", len(r.body), len(body), status)
	}
}

// A clientSpy is a base transport that notes what goes through it, but for token
// requests.
type clientSpy struct {
	base   http.RoundTripper
	closed atomic.Int32 // calls of CloseIdleConnections

	mu   sync.Mutex
	seen []string // like "GET https://host token" or "POST https://host 4 bytes"
}

func (s *clientSpy) RoundTrip(req *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(req.URL.Path, "/oidc/token") {
		seen := fmt.Sprintf("%s %s://%s", req.Method, req.URL.Scheme, req.URL.Host)
		if req.ContentLength != 0 {
			seen += fmt.Sprintf(" %d bytes", req.ContentLength)
		}
		if clientHasToken(req.Header) {
			seen += " token"
		}
		s.mu.Lock()
		s.seen = append(s.seen, seen)
		s.mu.Unlock()
	}
	return s.base.RoundTrip(req)
}

func (s *clientSpy) CloseIdleConnections() { s.closed.Add(1) }

// take returns what was seen since the last call.
func (s *clientSpy) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

func clientHasToken(h http.Header) bool {
	return strings.HasPrefix(h.Get("Authorization"), "Bearer ")
}

// A clientLog is the text of a Logger.
type clientLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *clientLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// withoutToken returns the records of requests that went without a token since
// the last call, each from its "why" on.
func (l *clientLog) withoutToken() (records []string) {
	time.Sleep(time.Millisecond) // records are written in goroutines of their own
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if _, record, ok := strings.Cut(line, `level=DEBUG msg="mosaic: request goes without a token" `); ok {
			records = append(records, strings.TrimSpace(record))
		}
	}
	l.text.Reset()
	return records
}

// A clientBody cannot be had again, and knows whether it was closed.
type clientBody struct {
	io.Reader
	closed atomic.Bool
}

func newClientBody() *clientBody { return &clientBody{Reader: strings.NewReader("form")} }

func (b *clientBody) Close() error {
	b.closed.Store(true)
	return nil
}

func (b *clientBody) wantClosed(t *testing.T) {
	t.Helper()
	if !b.closed.Load() {
		t.Error("a body was not closed")
	}
}

func TestEachRequestGetsTheTokenOfItsPath(t *testing.T) {
	const (
		cis    = "userid-api"
		verify = string(mosaic.IdentityVerification)
		risk   = string(mosaic.FraudPrevention)
		xdv    = string(mosaic.DataValidation)
	)
	w := newClientWorld(t)
	client := w.client()
	own := mosaic.Resource("https://orders.acme.com/")
	w.AddResource(own)
	conf := *w.conf
	conf.Resource = own
	ownClient := conf.Client(clientContext(&http.Client{Transport: w.transport}))

	for _, tt := range []struct{ path, want string }{
		{"", cis},
		{"/", cis},
		{"/cis/v1/users", cis},
		{"/anything", cis},
		{"/verify/api/v1/verification", verify},
		{"/risk/v1/recommendation", risk},
		{"/xdv/v1/check", xdv},
		{"/verify", verify},
		{"/risk/", risk},
		{"/risk?service=/xdv", risk},
		{"/risk#/xdv", risk},
		{"/%72isk/v1", risk},
		{"/verifyx", cis},
		{"/verifyx/verify", cis},
		{"/xverify", cis},
		{"/ver/ify", cis},
		{"/Verify/api", cis},
		{"/risk;v=1/x", cis},
		{"/risk.json", cis},
		{"/cis/risk", cis},
		{"/cis/../risk", cis},
		{"//risk/v1", cis},
		{"/risk%2Fv1", cis}, // one segment
		{"/risk/v1%2Fx", risk},
		{"/%72isk/v1%2Fx", risk},
	} {
		for _, way := range []struct {
			name   string
			client *http.Client
			want   string
		}{{"by path", client, tt.want}, {"with a Resource", ownClient, string(own)}} {
			r := clientGet(t, way.client, string(mosaic.EU)+tt.path)
			if way.client == client && (r.err != nil || r.res.StatusCode != http.StatusOK) {
				t.Errorf("%q: the stand-in takes it for another service's path: error %v", tt.path, r.err)
			}
			arrived := w.APIRequests()
			tok := strings.TrimPrefix(arrived[len(arrived)-1].Header.Get("Authorization"), "Bearer ")
			claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: tok})
			if err != nil {
				t.Fatalf("%q %s: got %v; want a token", tt.path, way.name, err)
			}
			if got := claims.Audience; len(got) != 1 || got[0] != way.want {
				t.Errorf("%q %s: got a token for %q; want %q", tt.path, way.name, got, way.want)
			}
		}
	}
	if got := len(w.TokenRequests()); got != 5 {
		t.Errorf("got %d token requests for 4 services and a Resource; want 5", got)
	}
}

func TestAServiceThatIsNotCalledCostsNothing(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		client := w.client()
		w.wantTokenRequests(t, 0)
		clientGet(t, client, mosaic.EU.URL("/risk/v1")).want(t, 0, 200, "")
		w.wantTokenRequests(t, 1)
	})
}

func TestTokensGoToKnownOriginsAlone(t *testing.T) {
	const eu = "api.eu.transmitsecurity.io"
	for _, group := range []struct {
		name         string
		change       func(*mosaic.Config)
		known, other []string
	}{
		{"the endpoint's", func(*mosaic.Config) {},
			[]string{
				"https://" + eu + "/cis",
				"https://" + eu,
				"https://" + eu + ":443/cis",
				"https://" + eu + ":/cis",
				"https://API.EU.TransmitSecurity.io/cis",
				"HTTPS://" + eu + "/cis",
				"https://" + eu + "/https://evil.com/",
				"https://" + eu + "/@evil.com",
			},
			[]string{
				"https://" + eu + ":8443/cis",
				"https://" + eu + ":80/cis",
				"http://" + eu + "/cis",
				"http://" + eu + ":443/cis",
				"http://" + eu + ":80/cis",
				"https://" + eu + "./cis",
				"https://" + eu + ".:443/cis",
				"https://x." + eu + "/cis",
				"https://eu.transmitsecurity.io/cis",
				"https://transmitsecurity.io/cis",
				"https://api.transmitsecurity.io/cis",
				"https://io/cis",
				"https://" + eu + ".evil.com/cis",
				"https://evil-" + eu + "/cis",
				"https://evil" + eu + "/cis",
				"https://" + eu + "-evil.com/cis",
				"https://api-eu.transmitsecurity.io/cis",
				"https://api.eu.transmitsecurity.i0/cis",
				"https://" + eu + "@evil.com/cis",
				"https://" + eu + ":443@evil.com/cis",
				"https://user:" + eu + "@evil.com/cis",
				"https://evil.com/" + eu,
				"https://evil.com/@" + eu,
				"https://evil.com?@" + eu,
				"https://evil.com#@" + eu,
				"https://evil.com:443/https://" + eu,
				"https://ａpi.eu.transmitsecurity.io/cis",    // full width
				"https://api.eu.transmitsecurity.іo/cis",    // Cyrillic
				"https://api。eu。transmitsecurity。io/cis",    // ideographic full stops
				"https://api.eu.transmit\u00adsecurity.io/", // a soft hyphen, which IDNA drops
				"https://127.0.0.1/cis",
				"https://[::1]/cis",
			}},
		{"an https Resource's", func(c *mosaic.Config) { c.Resource = "https://Orders.Acme.com:8443/v1?x" },
			[]string{
				"https://orders.acme.com:8443/",
				"https://ORDERS.acme.com:8443/v2",
				"https://" + eu + "/cis",
			},
			[]string{
				"https://orders.acme.com/v1",
				"https://orders.acme.com:443/v1",
				"http://orders.acme.com:8443/v1",
				"https://acme.com:8443/v1",
			}},
		{"a Resource with user information's", func(c *mosaic.Config) { c.Resource = "https://acme.com@orders.acme.com" },
			[]string{"https://orders.acme.com/"},
			[]string{"https://acme.com/"}},
		{"not an http Resource's", func(c *mosaic.Config) { c.Resource = "http://orders.acme.com" },
			nil,
			[]string{"http://orders.acme.com/", "https://orders.acme.com/"}},
		{"not a URN's", func(c *mosaic.Config) { c.Resource = "urn:orders.acme.com" },
			nil,
			[]string{"https://orders.acme.com/", "urn://orders.acme.com/"}},
		{"not the services'", func(*mosaic.Config) {},
			nil,
			[]string{string(mosaic.FraudPrevention), string(mosaic.IdentityVerification), string(mosaic.DataValidation)}},
		{"Hosts", func(c *mosaic.Config) {
			c.Hosts = []string{"activities.transmitsecurity.io", "Status.Acme.com:8443", "acme.com:443",
				"xn--bcher-kva.example", "192.0.2.1", "[2001:db8::1]", "[2001:DB8:0::2]:444"}
		},
			[]string{
				"https://activities.transmitsecurity.io/v1",
				"https://activities.transmitsecurity.io:443/v1",
				"https://status.acme.com:8443/",
				"https://acme.com/",
				"https://xn--bcher-kva.example/",
				"https://XN--BCHER-KVA.example/",
				"https://192.0.2.1/",
				"https://[2001:db8::1]/",
				"https://[2001:0DB8:0:0:0:0:0:1]:443/",
				"https://[2001:db8::2]:444/",
			},
			[]string{
				"http://activities.transmitsecurity.io/v1",
				"https://activities.transmitsecurity.io:8443/v1",
				"https://status.acme.com/",
				"https://status.acme.com:443/",
				"https://acme.com:444/",
				"https://www.acme.com/",
				"https://bücher.example/",
				"https://192.0.2.01/",
				"https://192.0.2.1./",
				"https://3221225985/",
				"https://[::ffff:192.0.2.1]/",
				"https://[2001:db8::1%25eth0]/",
				"https://[2001:db8::1]:444/",
				"https://[2001:db8::2]/",
				"https://[2001:db8::3]/",
			}},
		{"a loopback endpoint's", func(c *mosaic.Config) { c.Endpoint, c.Hosts = "http://localhost:8080", []string{"127.0.0.1"} },
			[]string{"http://localhost:8080/cis", "http://LOCALHOST:8080/cis", "https://127.0.0.1/"},
			[]string{"http://localhost/cis", "https://localhost:8080/cis", "http://127.0.0.1/", "http://127.0.0.1:8080/"}},
	} {
		t.Run(group.name, func(t *testing.T) {
			w := newClientWorld(t)
			// What is asked for in plain text is answered here, token requests included.
			w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
				if req.URL.Scheme == "https" {
					return w.transport.RoundTrip(req)
				}
				if req.Body != nil {
					req.Body.Close()
				}
				rec := httptest.NewRecorder()
				rec.Header().Set("Content-Type", "application/json")
				io.WriteString(rec, `{"access_token":"plain","expires_in":3600}`)
				return rec.Result(), nil
			})
			group.change(w.conf)
			if w.conf.Resource != "" {
				w.AddResource(w.conf.Resource)
			}
			client := w.client()
			try := func(target string, want bool) {
				w.spy.take()
				r := clientGet(t, client, target)
				if seen := w.spy.take(); r.err != nil || len(seen) != 1 || strings.HasSuffix(seen[0], " token") != want {
					t.Errorf("%s: sent %q, error %v; want it sent once, with a token: %t", target, seen, r.err, want)
				}
			}
			for _, target := range group.known {
				try(target, true)
			}
			for _, target := range group.other {
				try(target, false)
			}
		})
	}
}

// A clientRoundTripper is a function that sends.
type clientRoundTripper func(*http.Request) (*http.Response, error)

func (f clientRoundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestAnOpaqueURLGetsNoToken(t *testing.T) {
	w := newClientWorld(t)
	for _, opaque := range []string{"//evil.com/cis", "/cis"} {
		req := clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil)
		req.URL.Opaque = opaque
		clientDo(w.client(), req)
		if seen := w.spy.take(); !slices.Equal(seen, []string{"GET " + string(mosaic.EU)}) {
			t.Errorf("Opaque %q: sent %q; want it sent without a token", opaque, seen)
		}
	}
}

func TestHostsAreNamesWithAPortOrWithout(t *testing.T) {
	for _, tt := range []struct {
		host string
		want string // of the error; "": none
	}{
		{"acme.com", ""},
		{"ACME.com", ""},
		{"localhost", ""},
		{"acme.com:8443", ""},
		{"192.0.2.1:443", ""},
		{"[2001:db8::1]:443", ""},
		{"xn--bcher-kva.example", ""},
		{"", `Hosts: "" has a bad host`},
		{"*.acme.com", `Hosts: "*.acme.com" has a bad host`},
		{"https://acme.com", `Hosts: "https://acme.com" has a bad port`},
		{"acme.com/x", `Hosts: "acme.com/x" has a bad host`},
		{"acme.com:443/x", `Hosts: "acme.com:443/x" has a bad port`},
		{"acme.com?x", `Hosts: "acme.com?x" has a bad host`},
		{"acme.com#x", `Hosts: "acme.com#x" has a bad host`},
		{"u@acme.com", `Hosts: "[redacted]@acme.com" has a bad host`},
		{"acme.com.", `Hosts: "acme.com." has a bad host`},
		{".acme.com", `Hosts: ".acme.com" has a bad host`},
		{"acme..com", `Hosts: "acme..com" has a bad host`},
		{"acme.com:", `Hosts: "acme.com:" has a bad port`},
		{"acme.com:0", `Hosts: "acme.com:0" has a bad port`},
		{"acme.com:65536", `Hosts: "acme.com:65536" has a bad port`},
		{"acme.com:https", `Hosts: "acme.com:https" has a bad port`},
		{"acme.com ", `Hosts: "acme.com " has a bad host`},
		{"acme.com,evil.com", `Hosts: "acme.com,evil.com" has a bad host`},
		{"bücher.example", `Hosts: "bücher.example" has a bad host`},
		{"2001:db8::1", `Hosts: "2001:db8::1" has a bad host`},
		{"[2001:db8::1", `Hosts: "[2001:db8::1" has a bad host`},
		{"[2001:db8::1%eth0]", `Hosts: "[2001:db8::1%eth0]" has a bad host`},
		{":443", `Hosts: ":443" has a bad host`},
	} {
		conf := &mosaic.Config{ClientID: "id", ClientSecret: "s3cr3t!!", Endpoint: mosaic.EU, Hosts: []string{"fine.acme.com", tt.host}}
		var got string
		if err := conf.Validate(); err != nil {
			got = err.Error()
		}
		want := tt.want
		if want != "" {
			want = "mosaic: invalid Config: " + want + ": want a host name, with a port or without"
		}
		if got != want {
			t.Errorf("Hosts %q: got %q; want %q", tt.host, got, want)
		}
	}
}

// clientHop is an API that redirects with the code of its query to the URL there.
func clientHop(rw http.ResponseWriter, r *http.Request) {
	if to := r.URL.Query().Get("to"); to != "" {
		rw.Header().Set("Location", to)
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		rw.WriteHeader(code)
	}
}

func TestARedirectGetsATokenOnlyIfAllBeforeItWentToKnownOrigins(t *testing.T) {
	mosaicServer := mosaictest.NewServer()
	defer mosaicServer.Close()
	mosaicServer.Handle("/cis/hop", http.HandlerFunc(clientHop))
	foreign := httptest.NewTLSServer(http.HandlerFunc(clientHop))
	defer foreign.Close()
	plain := httptest.NewServer(http.HandlerFunc(clientHop))
	defer plain.Close()

	const (
		eu         = "https://api.eu.transmitsecurity.io"
		activities = "https://activities.transmitsecurity.io"
	)
	base := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, plain.Listener.Addr().String())
		},
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			to := foreign.Listener.Addr().String()
			if addr == "api.eu.transmitsecurity.io:443" || addr == "activities.transmitsecurity.io:443" {
				to = strings.TrimPrefix(string(mosaicServer.Endpoint()), "https://")
			}
			return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, network, to)
		},
	}
	defer base.CloseIdleConnections()
	spy := &clientSpy{base: base}
	var log clientLog
	conf := mosaicServer.Config()
	conf.Endpoint, conf.Hosts = mosaic.EU, []string{"activities.transmitsecurity.io"}
	conf.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	client := conf.Client(clientContext(&http.Client{Transport: spy}))

	const foreignTarget, foreignBefore = "its origin is not known", "it was redirected by an origin that is not known"
	for _, tt := range []struct {
		name  string
		route []string
		known int    // so many of the route get a token
		why   string // the last has none
	}{
		{"within the origin", []string{eu, eu, eu}, 3, ""},
		{"to an empty port, which is the default one", []string{eu, eu + ":"}, 2, ""},
		{"to another known origin and back", []string{eu, activities, eu}, 3, ""},
		{"out", []string{eu, "https://evil.com"}, 1, foreignTarget},
		{"to another port", []string{eu, eu + ":8443"}, 1, foreignTarget},
		{"to plain http", []string{eu, "http://api.eu.transmitsecurity.io"}, 1, foreignTarget},
		{"to a look-alike", []string{eu, eu + ".evil.com"}, 1, foreignTarget},
		{"to a subdomain", []string{eu, "https://x.api.eu.transmitsecurity.io"}, 1, foreignTarget},
		{"in", []string{"https://evil.com", eu}, 0, foreignBefore},
		{"in from plain http", []string{"http://api.eu.transmitsecurity.io", eu}, 0, foreignBefore},
		{"out and back in", []string{eu, "https://evil.com", eu}, 1, foreignBefore},
		{"far out and back in", []string{eu, activities, "https://evil.com", "https://evil.org", "http://evil.net", eu}, 2, foreignBefore},
	} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprint(tt.name, " with ", code), func(t *testing.T) {
				var target string
				var want []string
				for i := len(tt.route) - 1; i >= 0; i-- {
					target = tt.route[i] + "/cis/hop?" + url.Values{"code": {fmt.Sprint(code)}, "to": {target}, "signature": {"s1gned"}}.Encode()
				}
				for i, origin := range tt.route {
					seen := "POST " + origin + " 4 bytes"
					if i > 0 && code < 307 {
						seen = "GET " + origin
					}
					if i < tt.known {
						seen += " token"
					}
					want = append(want, seen)
				}
				req := clientRequest(t, "POST", target, strings.NewReader("form"))
				r := clientDo(client, req)
				if got := spy.take(); r.err != nil || !slices.Equal(got, want) {
					t.Errorf("sent\n\t%s\nerror %v; want\n\t%s", strings.Join(got, "\n\t"), r.err, strings.Join(want, "\n\t"))
				}
				if tt.why == foreignBefore && r.res.StatusCode != http.StatusUnauthorized {
					t.Errorf("got status %d from Mosaic; want 401", r.res.StatusCode)
				}
				records := log.withoutToken()
				if len(records) != len(tt.route)-tt.known {
					t.Errorf("logged %q; want one record for each request without a token", records)
				}
				if len(records) > 0 {
					u, _ := url.Parse(tt.route[len(tt.route)-1])
					if got, want := records[len(records)-1], fmt.Sprintf("why=%q scheme=%s host=%s", tt.why, u.Scheme, u.Host); got != want {
						t.Errorf("logged %s; want %s", got, want)
					}
				}
			})
		}
	}
	if got := len(mosaicServer.TokenRequests()); got != 1 {
		t.Errorf("got %d token requests; want 1", got)
	}
}

func TestARedirectOfAnUnknownRequestGetsNoToken(t *testing.T) {
	w := newClientWorld(t)
	req := clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil)
	req.Response = new(http.Response)
	clientDo(w.client(), req)
	if seen := w.spy.take(); !slices.Equal(seen, []string{"GET " + string(mosaic.EU)}) {
		t.Errorf("sent %q; want it sent without a token", seen)
	}
}

func TestARequestThatIsToHaveLedToItselfGetsNoToken(t *testing.T) {
	w := newClientWorld(t)
	req := clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil)
	req.Response = &http.Response{Request: req}
	clientDo(w.client(), req)
	if seen := w.spy.take(); !slices.Equal(seen, []string{"GET " + string(mosaic.EU)}) {
		t.Errorf("sent %q; want it sent without a token", seen)
	}
}

func TestARedirectOfARequestWithItsOwnAuthorizationGetsNoToken(t *testing.T) {
	const activities = "https://activities.transmitsecurity.io"
	for _, tt := range []struct {
		name  string
		set   func(*http.Request)
		to    string
		token bool
	}{
		{"none of its own", func(*http.Request) {}, activities, true},
		{"a header", func(r *http.Request) { r.Header.Set("Authorization", "Basic dTpw") }, activities, false},
		{"a header in lower case", func(r *http.Request) { r.Header["authorization"] = []string{"Basic dTpw"} }, activities, false},
		{"an empty header", func(r *http.Request) { r.Header["Authorization"] = []string{""} }, activities, false},
		{"of the URL", func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") }, activities, false},
		{"of the URL, within the origin", func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") }, string(mosaic.EU), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newClientWorld(t)
			w.conf.Hosts = []string{"activities.transmitsecurity.io"}
			w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path != "/cis/hop" {
					return w.transport.RoundTrip(req)
				}
				return clientRedirect(req, tt.to+"/cis/landed"), nil
			})
			client := w.client()
			req := clientRequest(t, "GET", mosaic.EU.URL("/cis/hop"), nil)
			tt.set(req)
			clientDo(client, req)
			// As of a client that does not make a header of what is in the URL, as net/http's does.
			next := clientRequest(t, "GET", tt.to+"/cis/landed", nil)
			next.Response = &http.Response{Request: req}
			clientDo(client, next)

			arrived := w.arrivals("/cis/landed")
			if len(arrived) != 2 {
				t.Fatalf("%d requests arrived; want 2", len(arrived))
			}
			for i, r := range arrived {
				if got := clientHasToken(r.Header); got != tt.token {
					t.Errorf("request %d: sent with a token: %t; want %t", i, got, tt.token)
				}
			}
		})
	}
}

// clientRedirect redirects req, in a response that knows another request: such a
// base transport builds its own.
func clientRedirect(req *http.Request, to string) *http.Response {
	own := req.Clone(req.Context())
	own.Response = nil
	return &http.Response{
		StatusCode: http.StatusTemporaryRedirect,
		Header:     http.Header{"Location": {to}},
		Body:       http.NoBody,
		Request:    own,
	}
}

func TestABaseThatBuildsItsOwnRequestsHidesNoRedirect(t *testing.T) {
	const redirector = string(mosaic.EU) + "/cis/hop"
	w := newClientWorld(t)
	w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
		switch {
		case req.URL.Host == "evil.com":
			return clientRedirect(req, redirector), nil
		case req.URL.Path == "/cis/hop":
			return clientRedirect(req, mosaic.EU.URL("/cis/delete")), nil
		}
		return w.transport.RoundTrip(req)
	})
	client := w.client()
	clientDo(client, clientRequest(t, "DELETE", "https://evil.com", nil))
	if got, want := w.spy.take(), []string{"DELETE https://evil.com", "DELETE " + string(mosaic.EU), "DELETE " + string(mosaic.EU)}; !slices.Equal(got, want) {
		t.Errorf("sent %q; want %q, without a token", got, want)
	}
	clientDo(client, clientRequest(t, "DELETE", redirector, nil))
	if got, want := w.spy.take(), []string{"DELETE " + string(mosaic.EU) + " token", "DELETE " + string(mosaic.EU) + " token"}; !slices.Equal(got, want) {
		t.Errorf("sent %q; want %q", got, want)
	}
}

func TestAResponsesRequestIsTheCallersWhateverTheBaseSays(t *testing.T) {
	for _, tt := range []struct {
		name, target, own string
	}{
		{"with a token", mosaic.EU.URL("/cis"), ""},
		{"with its own Authorization", mosaic.EU.URL("/cis"), "Bearer mine"},
		{"to a foreign origin", "https://evil.com", ""},
	} {
		for _, said := range []*http.Request{nil, httptest.NewRequest("GET", "https://example.com", nil)} {
			w := newClientWorld(t)
			w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
				res, err := w.transport.RoundTrip(req)
				if err == nil {
					res.Request = said
				}
				return res, err
			})
			req := clientRequest(t, "GET", tt.target, nil)
			if tt.own != "" {
				req.Header.Set("Authorization", tt.own)
			}
			res, err := w.client().Transport.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			res.Body.Close()
			if res.Request != req {
				t.Errorf("%s, the base's Request nil: %t: the response's is not the caller's", tt.name, said == nil)
			}
		}
	}
}

func TestABaseThatReturnsNothingIsAnError(t *testing.T) {
	for _, tt := range []struct {
		name, path, own string
	}{
		{"with a token", "/cis/nothing", ""},
		{"sent again", "/cis/refused", ""},
		{"with its own Authorization", "/cis/nothing", "Bearer mine"},
		{"to a foreign origin", "/nothing", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.refuseFirst("/cis/refused", clientInvalidToken)
				var refused bool
				w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
					switch {
					case strings.HasSuffix(req.URL.Path, "/nothing"), req.URL.Path == "/cis/refused" && refused:
						return nil, nil
					case req.URL.Path == "/cis/refused":
						refused = true
					}
					return w.transport.RoundTrip(req)
				})
				client := w.client()
				w.warm(t, client, 10*time.Second)
				origin := string(mosaic.EU)
				if tt.path == "/nothing" {
					origin = "https://evil.com"
				}
				req := clientRequest(t, "GET", origin+tt.path, nil)
				if tt.own != "" {
					req.Header.Set("Authorization", tt.own)
				}
				// The words are net/http's.
				if r := clientDo(client, req); r.err == nil || !strings.Contains(r.err.Error(), "with a nil error") {
					t.Errorf("got %v; want an error that says so", r.err)
				}
			})
		})
	}
}

func TestARequestForAnotherHostThanItsURLsGetsNoToken(t *testing.T) {
	for _, tt := range []struct {
		host  string
		token bool
	}{
		{"", true},
		{"api.eu.transmitsecurity.io", true},
		{"API.eu.transmitsecurity.io", true},
		{"api.eu.transmitsecurity.io:443", false},
		{"evil.com", false},
		{"api.eu.transmitsecurity.io:8443", false},
		{"api.eu.transmitsecurity.io.", false},
		{"api.transmitsecurity.io", false},
		{"activities.transmitsecurity.io", false},
	} {
		w := newClientWorld(t)
		w.conf.Hosts = []string{"activities.transmitsecurity.io"}
		client := w.client()
		req := clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil)
		req.Host = tt.host
		clientDo(client, req)
		if got := clientHasToken(w.APIRequests()[0].Header); got != tt.token {
			t.Errorf("Host %q: sent with a token: %t; want %t", tt.host, got, tt.token)
		}
		records := w.log.withoutToken()
		if want := `why="its Host is not that of its URL" scheme=https host=api.eu.transmitsecurity.io`; !tt.token && !slices.Equal(records, []string{want}) {
			t.Errorf("Host %q: logged %q; want %s", tt.host, records, want)
		}

		// Neither does one that a redirect led to, whatever it says itself.
		next := clientRequest(t, "GET", mosaic.EU.URL("/cis/next"), nil)
		next.Response = &http.Response{Request: req}
		clientDo(client, next)
		if got := clientHasToken(w.arrivals("/cis/next")[0].Header); got != tt.token {
			t.Errorf("after Host %q: sent with a token: %t; want %t", tt.host, got, tt.token)
		}
	}
}

func TestARequestWithItsOwnAuthorizationIsLeftAlone(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*http.Request)
		want string // that arrives
	}{
		{"Bearer", func(r *http.Request) { r.Header.Set("Authorization", "Bearer mine") }, "Bearer mine"},
		{"another scheme", func(r *http.Request) { r.SetBasicAuth("u", "p") }, "Basic dTpw"},
		{"in lower case", func(r *http.Request) { r.Header["authorization"] = []string{"Bearer mine"} }, "Bearer mine"},
		{"empty", func(r *http.Request) { r.Header["Authorization"] = []string{""} }, ""},
		{"of the URL", func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") }, "Basic dTpw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newClientWorld(t)
			req := clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil)
			tt.set(req)
			r := clientDo(w.client(), req)
			if r.err != nil || r.res.StatusCode != http.StatusUnauthorized {
				t.Errorf("got %v; want the server's 401", r.err)
			}
			arrived := w.APIRequests()
			if len(arrived) != 1 || len(arrived[0].Header["Authorization"]) != 1 || arrived[0].Header.Get("Authorization") != tt.want {
				t.Errorf("%d requests arrived; want one, with the caller's own header", len(arrived))
			}
			if got := len(w.TokenRequests()); got != 0 {
				t.Errorf("got %d token requests; want none", got)
			}
		})
	}
}

func TestTheCertificateIsPresentedToKnownOriginsAlone(t *testing.T) {
	w := newClientWorld(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	w.conf.Certificate = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	client := w.conf.Client(clientContext(&http.Client{Transport: w.transport}))

	get := func(path, target string, header http.Header, want bool) {
		t.Helper()
		req := clientRequest(t, "GET", target+path, nil)
		maps.Copy(req.Header, header)
		clientDo(client, req)
		arrived := w.arrivals(path)
		if len(arrived) != 1 || (arrived[0].Certificate != nil) != want {
			t.Errorf("%s%s arrived %d times; want once, with the certificate: %t", target, path, len(arrived), want)
		}
	}
	get("/cis/token", string(mosaic.EU), nil, true)
	get("/cis/own", string(mosaic.EU), http.Header{"Authorization": {"Bearer mine"}}, true)
	get("/cis/foreign", "https://evil.com", nil, false)
	get("/cis/foreign-own", "https://evil.com", http.Header{"Authorization": {"Bearer mine"}}, false)

	// Idle connections are both the clone's and the caller's.
	dials := w.dials.Load()
	client.CloseIdleConnections()
	get("/cis/again", string(mosaic.EU), nil, true)
	get("/cis/foreign-again", "https://evil.com", nil, false)
	if got := w.dials.Load() - dials; got != 2 {
		t.Errorf("after CloseIdleConnections, two hosts were dialed %d times; want 2", got)
	}
}

func TestTheWaitForATokenEndsWithTheRequestsContext(t *testing.T) {
	for _, tt := range []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		took time.Duration
		want error
	}{
		{"a deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		}, 100 * time.Millisecond, context.DeadlineExceeded},
		{"cancelled meanwhile", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, time.Second, context.Canceled},
		{"cancelled before", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, 0, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.SetLatency(5*time.Second, 0)
				client := w.client()
				var wg sync.WaitGroup
				wg.Go(func() { // a patient one is not disturbed
					clientGet(t, client, mosaic.EU.URL("/cis/patient")).want(t, 5*time.Second, 200, "")
				})
				synctest.Wait()
				ctx, cancel := tt.ctx(t.Context())
				defer cancel()
				body := newClientBody()
				r := clientDo(client, clientRequest(t, "POST", mosaic.EU.URL("/cis"), body).WithContext(ctx))
				if !errors.Is(r.err, tt.want) || r.took != tt.took {
					t.Errorf("got %v after %s; want %v after %s", r.err, r.took, tt.want, tt.took)
				}
				body.wantClosed(t)
				wg.Wait()
				w.wantTokenRequests(t, 1)
				if got := len(w.APIRequests()); got != 1 {
					t.Errorf("%d requests were sent; want the patient one alone", got)
				}
			})
		})
	}
}

func TestTheClientsTimeoutCoversTheWaitForAToken(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.SetLatency(5*time.Second, 0)
		client := w.conf.Client(clientContext(&http.Client{Transport: w.transport, Timeout: time.Second}))
		r := clientGet(t, client, mosaic.EU.URL("/cis"))
		if timeout := net.Error(nil); !errors.As(r.err, &timeout) || !timeout.Timeout() || r.took != time.Second {
			t.Errorf("got %v after %s; want a timeout after 1s", r.err, r.took)
		}
	})
}

func TestADeadlineThatEndsTheWaitForATokenIsATimeout(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.SetLatency(5*time.Second, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := clientDo(w.client(), clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil).WithContext(ctx))
		// As every other deadline's error of an http.Client: retrying code asks so.
		if timeout := net.Error(nil); !errors.As(r.err, &timeout) || !timeout.Timeout() {
			t.Errorf("got %v, which is no timeout; want one", r.err)
		}
	})
}

func TestARequestEndsOnTheDotAtEachStage(t *testing.T) {
	for _, tt := range []struct {
		path string
		want int // status; 0: the context's error
		age  time.Duration
	}{
		{"/cis/hangs", 0, 0},
		{"/cis/refused-then-hangs", 0, 10 * time.Second},
		{"/cis/refused", 401, 10 * time.Second}, // it waits for the successor; the 401 is there
	} {
		t.Run(tt.path, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
				w.Handle("/cis/hangs", http.HandlerFunc(hang))
				var arrived atomic.Int32
				w.Handle("/cis/refused-then-hangs", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if arrived.Add(1) == 1 {
						clientUnauthorized(rw, "")
						return
					}
					hang(rw, r)
				}))
				w.refuseFirst("/cis/refused", "")
				client := w.client()
				w.warm(t, client, tt.age)
				if tt.want != 0 {
					w.SetLatency(3*time.Second, 0)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				r := clientDo(client, clientRequest(t, "GET", mosaic.EU.URL(tt.path), nil).WithContext(ctx))
				if tt.want != 0 {
					r.want(t, time.Second, tt.want, clientRefusal)
				} else if !errors.Is(r.err, context.DeadlineExceeded) || r.took != time.Second {
					t.Errorf("got %v after %s; want the context's error after 1s", r.err, r.took)
				}
			})
		})
	}
}

func TestWithoutATokenNothingIsSent(t *testing.T) {
	w := newClientWorld(t)
	w.SetSecret("another-secret")
	body := newClientBody()
	r := clientDo(w.client(), clientRequest(t, "POST", mosaic.EU.URL("/cis"), body))
	var refused *oauth2.RetrieveError
	if !errors.As(r.err, &refused) || refused.ErrorCode != "invalid_client" {
		t.Errorf("got %v; want the token endpoint's refusal", r.err)
	}
	if want := `Post "https://api.eu.transmitsecurity.io/cis": mosaic: token request to https://api.eu.transmitsecurity.io/oidc/token failed: `; r.err == nil || !strings.HasPrefix(r.err.Error(), want) {
		t.Errorf("got %v; want %s…", r.err, want)
	}
	body.wantClosed(t)
	if got := len(w.APIRequests()); got != 0 {
		t.Errorf("%d requests were sent; want none", got)
	}
}

func TestARevokedTokenIsRenewedOnceForFifty(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		client := w.client()
		w.warm(t, client, 10*time.Second)
		w.Revoke()
		w.SetLatency(time.Second, 0)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				method := []string{"GET", "POST"}[i%2] // the stand-in says invalid_token
				req := clientRequest(t, method, mosaic.EU.URL("/cis/fifty"), strings.NewReader("form"))
				clientDo(client, req).want(t, time.Second, 200, "")
			})
		}
		wg.Wait()
		w.wantTokenRequests(t, 2)
		arrived := w.arrivals("/cis/fifty")
		if len(arrived) != 100 {
			t.Errorf("50 requests arrived %d times; want 100", len(arrived))
		}
		for _, r := range arrived {
			if string(r.Body) != "form" {
				t.Errorf("a request arrived with a body of %d bytes; want all of it", len(r.Body))
			}
		}
	})
}

func TestALateRefusalFindsTheSuccessorThere(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		var refused sync.Map
		w.Handle("/cis/slow", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if _, ok := refused.LoadOrStore("slow", true); !ok {
				time.Sleep(3 * time.Second)
				clientUnauthorized(rw, clientInvalidToken)
			}
		}))
		w.refuseFirst("/cis/quick", clientInvalidToken)
		client := w.client()
		w.warm(t, client, 10*time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { clientGet(t, client, mosaic.EU.URL("/cis/slow")).want(t, 3*time.Second, 200, "") })
		synctest.Wait()
		clientGet(t, client, mosaic.EU.URL("/cis/quick")).want(t, 0, 200, "welcome")
		wg.Wait()
		w.wantTokenRequests(t, 2) // the second was 3 s old when the refusal of the first came
	})
}

func TestALateRefusalWhoseSuccessorHasEndedWaitsForAnother(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.SetLifetime(time.Minute)
		var polls atomic.Int32
		w.Handle("/cis/poll", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if polls.Add(1) == 1 {
				time.Sleep(2 * time.Minute)
				clientUnauthorized(rw, clientInvalidToken)
				return
			}
			io.WriteString(rw, r.Header.Get("Authorization"))
		}))
		r := clientGet(t, w.client(), mosaic.EU.URL("/cis/poll"))
		r.want(t, 2*time.Minute, 200, "")
		claims, err := mosaic.ParseClaims(&oauth2.Token{AccessToken: strings.TrimPrefix(r.body, "Bearer ")})
		if err != nil || !time.Now().Before(claims.ExpiresAt.Time) {
			t.Errorf("sent again with a token that has ended, or none (%v)", err)
		}
	})
}

func TestWhoIsSentAgainAfterA401(t *testing.T) {
	replayable := func() io.Reader { return strings.NewReader("form") }
	once := func() io.Reader { return newClientBody() }
	none := func() io.Reader { return nil }
	empty := func() io.Reader { return http.NoBody }
	for _, tt := range []struct {
		name      string
		method    string
		header    string
		challenge string
		body      func() io.Reader
		want      int // how often it arrives
	}{
		{"GET", "GET", "", "", none, 2},
		{"no method, which is GET", "", "", "", none, 2},
		{"HEAD", "HEAD", "", "", none, 2},
		{"OPTIONS", "OPTIONS", "", "", none, 2},
		{"TRACE", "TRACE", "", "", none, 2},
		{"GET with a body", "GET", "", "", replayable, 2},
		{"GET with a body that cannot be had again", "GET", "", "", once, 1},
		{"POST", "POST", "", "", replayable, 1},
		{"POST without a body", "POST", "", "", none, 1},
		{"PUT", "PUT", "", "", replayable, 1},
		{"PATCH", "PATCH", "", "", replayable, 1},
		{"DELETE", "DELETE", "", "", none, 1},
		{"a method of somebody's own", "PURGE", "", "", none, 1},
		{"get, which is another method", "get", "", "", none, 1},
		{"Idempotency-Key", "POST", "Idempotency-Key", "", replayable, 2},
		{"X-Idempotency-Key", "POST", "X-Idempotency-Key", "", replayable, 2},
		{"Idempotency-Key and no body", "DELETE", "Idempotency-Key", "", none, 2},
		{"Idempotency-Key and a body that cannot be had again", "POST", "Idempotency-Key", "", once, 1},

		{"invalid_token", "POST", "", clientInvalidToken, replayable, 2},
		{"invalid_token, no body", "DELETE", "", clientInvalidToken, none, 2},
		{"invalid_token, an empty body", "POST", "", clientInvalidToken, empty, 2},
		{"invalid_token and a body that cannot be had again", "POST", "", clientInvalidToken, once, 1},
		{"invalid_token after other parameters", "POST", "", `Bearer realm="x", error="invalid_token", error_description="revoked"`, replayable, 2},
		{"invalid_token without blanks", "POST", "", `Bearer realm="x",error="invalid_token"`, replayable, 2},
		{"invalid_token without quotes, in lower case", "POST", "", `bearer error=invalid_token`, replayable, 2},
		{"invalid_token with blanks", "POST", "", `Bearer error = "invalid_token"`, replayable, 2},
		{"invalid_token in the second challenge", "POST", "", `Basic realm="x", Bearer error="invalid_token"`, replayable, 2},
		{"invalid_token in the second header", "POST", "", "Basic realm=\"x\"\nBearer error=\"invalid_token\"", replayable, 2},
		{"invalid_token without quotes, after other parameters", "POST", "", `bearer realm="x", error=invalid_token`, replayable, 2},
		{"invalid_token within another scheme's realm", "POST", "", `Basic realm="see bearer, error=invalid_token"`, replayable, 1},
		{"invalid_token of another scheme, after Bearer", "POST", "", `Bearer realm="a", DPoP error="invalid_token"`, replayable, 1},
		{"invalid_token within a description", "POST", "", `Bearer error_description="error=\"invalid_token\""`, replayable, 1},
		{"invalid_token within a description, after a quote", "POST", "", `Bearer error_description="\", error=invalid_token"`, replayable, 1},
		{"invalid_token behind 8 KiB", "POST", "", strings.Repeat("x ", 4<<10) + clientInvalidToken, replayable, 1},
		{"another error", "POST", "", `Bearer error="insufficient_scope"`, replayable, 1},
		{"a longer error", "POST", "", `Bearer error="invalid_token_format"`, replayable, 1},
		{"a longer error without quotes", "POST", "", `Bearer error=invalid_token_format`, replayable, 1},
		{"no error", "POST", "", `Bearer realm="x"`, replayable, 1},
		{"invalid_token as a description", "POST", "", `Bearer error_description="invalid_token"`, replayable, 1},
		{"invalid_token as another parameter", "POST", "", `Bearer xerror="invalid_token"`, replayable, 1},
		{"invalid_token of another scheme", "POST", "", `DPoP error="invalid_token"`, replayable, 1},
		{"invalid_token of a scheme that ends in Bearer", "POST", "", `XBearer error="invalid_token"`, replayable, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				const path = "/cis/v1/auth/password/login"
				w.refuseFirst(path, tt.challenge)
				client := w.client()
				w.warm(t, client, 10*time.Second)
				w.SetLatency(3*time.Second, 0)
				req := clientRequest(t, cmp.Or(tt.method, "GET"), mosaic.EU.URL(path), tt.body())
				req.Method = tt.method
				if tt.header != "" {
					req.Header.Set(tt.header, "k")
				}
				r := clientDo(client, req)
				switch {
				case tt.method == "HEAD" && r.body != "":
					t.Error("HEAD got a body")
				case tt.method == "HEAD":
					r.want(t, 3*time.Second, 200, "")
				case tt.want == 2:
					r.want(t, 3*time.Second, 200, "welcome")
				default:
					r.want(t, 0, 401, clientRefusal) // at once
				}
				arrived := w.arrivals(path)
				if len(arrived) != tt.want {
					t.Fatalf("arrived %d times; want %d", len(arrived), tt.want)
				}
				want := ""
				if body := tt.body(); body != nil && body != http.NoBody {
					want = "form"
				}
				for _, got := range arrived {
					if string(got.Body) != want || got.Method != cmp.Or(tt.method, "GET") || tt.header != "" && got.Header.Get(tt.header) != "k" {
						t.Errorf("%s arrived with a body of %d bytes; want %s with %q, and its own headers", got.Method, len(got.Body), tt.method, want)
					}
				}
				time.Sleep(3 * time.Second)
				w.wantTokenRequests(t, 2) // whoever is sent again, the token is renewed
				clientGet(t, client, mosaic.EU.URL("/cis/next")).want(t, 0, 200, "")
				if w.arrivals("/cis/next")[0].Header.Get("Authorization") == arrived[0].Header.Get("Authorization") {
					t.Error("the next request has the refused token; want its successor")
				}
			})
		})
	}
}

func TestAnIdempotencyKeyThatIsNotToBeSentMakesARequestRepeatable(t *testing.T) {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		clientBubble(t, func(t *testing.T, w *clientWorld) {
			w.refuseFirst("/cis/refused", "")
			client := w.client()
			w.warm(t, client, 10*time.Second)
			req := clientRequest(t, "POST", mosaic.EU.URL("/cis/refused"), strings.NewReader("form"))
			req.Header[name] = nil // net/http's way to say so without the server's knowing
			clientDo(client, req).want(t, 0, 200, "welcome")
			for _, r := range w.arrivals("/cis/refused") {
				if _, there := r.Header[name]; there {
					t.Errorf("%s arrived; want nothing of it", name)
				}
			}
		})
	}
}

func TestARequestWithoutABodyHasNoneWhenItIsSentAgain(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.refuseFirst("/cis/refused", clientInvalidToken)
		client := w.client()
		w.warm(t, client, 10*time.Second)
		req := clientRequest(t, "POST", mosaic.EU.URL("/cis/refused"), http.NoBody)
		req.GetBody = func() (io.ReadCloser, error) { return newClientBody(), nil }
		clientDo(client, req).want(t, 0, 200, "welcome")
		arrived := w.arrivals("/cis/refused")
		if len(arrived) != 2 {
			t.Fatalf("arrived %d times; want 2", len(arrived))
		}
		if got := len(arrived[1].Body); got != 0 {
			t.Errorf("arrived again with a body of %d bytes; want none", got)
		}
	})
}

func TestARequestIsSentAgainOnceAtMost(t *testing.T) {
	for _, challenge := range []string{"", clientInvalidToken} {
		clientBubble(t, func(t *testing.T, w *clientWorld) {
			w.Handle("/cis/bad", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { clientUnauthorized(rw, challenge) }))
			client := w.client()
			w.warm(t, client, time.Minute)
			clientGet(t, client, mosaic.EU.URL("/cis/bad")).want(t, 0, 401, clientRefusal)
			if got := len(w.arrivals("/cis/bad")); got != 2 {
				t.Errorf("challenge %q: arrived %d times; want 2", challenge, got)
			}
			w.wantTokenRequests(t, 2)
		})
	}
}

func TestA401IsHandedOverIfThereIsNoSuccessor(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(t *testing.T, w *clientWorld)
		took time.Duration
	}{
		{"refused", func(_ *testing.T, w *clientWorld) { w.SetSecret("another-secret") }, 0},
		{"out of order", func(_ *testing.T, w *clientWorld) { w.Fail(mosaictest.Fault{Status: 503}) }, 0},
		{"broken off", func(_ *testing.T, w *clientWorld) { w.Fail(mosaictest.Fault{}) }, 0},
		{"too late", func(_ *testing.T, w *clientWorld) { w.SetLatency(5*time.Second+1, 0) }, 5 * time.Second},
		{"never", func(_ *testing.T, w *clientWorld) { w.Fail(mosaictest.Fault{Hang: true}) }, 5 * time.Second},
		{"the same token again", func(t *testing.T, w *clientWorld) {
			tok := strings.TrimPrefix(w.arrivals("/cis/warm")[0].Header.Get("Authorization"), "Bearer ")
			w.Fail(mosaictest.Fault{
				Status: 200,
				Header: http.Header{"Content-Type": {"application/json"}},
				Body:   fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3590}`, tok),
			})
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.refuseFirst("/cis/refused", clientInvalidToken)
				client := w.client()
				w.warm(t, client, 10*time.Second)
				tt.set(t, w)
				clientGet(t, client, mosaic.EU.URL("/cis/refused")).want(t, tt.took, 401, clientRefusal)
				if got := len(w.arrivals("/cis/refused")); got != 1 {
					t.Errorf("arrived %d times; want 1", got)
				}
				clientGet(t, client, mosaic.EU.URL("/cis/other")).want(t, 0, 200, "") // the old token serves
				w.wantTokenRequests(t, 2)
			})
		})
	}
}

func TestATokenYoungerThanTenSecondsIsNotRenewed(t *testing.T) {
	for _, challenge := range []string{"", clientInvalidToken} {
		for _, tt := range []struct {
			age      time.Duration
			status   int
			requests int
		}{
			{0, 401, 1},
			{10*time.Second - 1, 401, 1},
			{10 * time.Second, 200, 2},
		} {
			t.Run(fmt.Sprintf("%s old, challenge %q", tt.age, challenge), func(t *testing.T) {
				clientBubble(t, func(t *testing.T, w *clientWorld) {
					w.refuseFirst("/cis/refused", challenge)
					client := w.client()
					w.warm(t, client, tt.age)
					clientGet(t, client, mosaic.EU.URL("/cis/refused")).want(t, 0, tt.status, "")
					w.wantTokenRequests(t, tt.requests)
				})
			})
		}
	}
}

func TestTheOldTokenStaysInServiceUntilItsSuccessorIsThere(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.refuseFirst("/cis/refused", clientInvalidToken)
		client := w.client()
		w.warm(t, client, 10*time.Second)
		w.SetLatency(3*time.Second, 0)
		var wg sync.WaitGroup
		wg.Go(func() { clientGet(t, client, mosaic.EU.URL("/cis/refused")).want(t, 3*time.Second, 200, "welcome") })
		for range 6 {
			synctest.Wait()
			clientGet(t, client, mosaic.EU.URL("/cis/other")).want(t, 0, 200, "")
			time.Sleep(time.Second)
		}
		wg.Wait()
		old := w.arrivals("/cis/warm")[0].Header.Get("Authorization")
		for i, r := range w.arrivals("/cis/other") {
			if got, want := r.Header.Get("Authorization") == old, i < 3; got != want && i != 3 { // the fourth comes with the successor
				t.Errorf("after %ds, a request had the old token: %t; want %t", i, got, want)
			}
		}
	})
}

func TestAPathThatAnswers401ForGoodCostsLittle(t *testing.T) {
	for _, tt := range []struct {
		name      string
		challenge string
		gap       time.Duration // of token requests, at least
		least     int           // token requests in ten minutes
		set       func(*clientWorld)
	}{
		{"invalid_token", clientInvalidToken, 10 * time.Second, 45, func(*clientWorld) {}},
		{"other", "", time.Minute, 10, func(*clientWorld) {}},
		{"invalid_token, slow", clientInvalidToken, 10 * time.Second, 40, func(w *clientWorld) { w.SetLatency(2*time.Second, 0) }},
		{"other, slow", "", time.Minute, 9, func(w *clientWorld) { w.SetLatency(2*time.Second, 0) }},
		{"invalid_token, outage", clientInvalidToken, 10 * time.Second, 5, func(w *clientWorld) { w.Fail(mosaictest.Fault{Status: 503}) }},
		{"other, outage", "", time.Minute, 5, func(w *clientWorld) { w.Fail(mosaictest.Fault{Status: 503}) }},
		{"invalid_token, hanging", clientInvalidToken, 10 * time.Second, 5, func(w *clientWorld) { w.Fail(mosaictest.Fault{Hang: true}) }},
		{"other, hanging", "", time.Minute, 5, func(w *clientWorld) { w.Fail(mosaictest.Fault{Hang: true}) }},
		{"other, refused", "", time.Minute, 5, func(w *clientWorld) { w.SetSecret("another-secret") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.Handle("/cis/bad", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { clientUnauthorized(rw, tt.challenge) }))
				client := w.client()
				w.warm(t, client, 0)
				tt.set(w)
				var wg sync.WaitGroup
				for range 600 {
					wg.Go(func() {
						r := clientGet(t, client, mosaic.EU.URL("/cis/bad"))
						r.want(t, min(r.took, 5*time.Second), 401, clientRefusal)
					})
					clientGet(t, client, mosaic.EU.URL("/cis/good")).want(t, 0, 200, "")
					time.Sleep(time.Second)
				}
				wg.Wait()
				asked := w.TokenRequests()
				if len(asked) < tt.least {
					t.Errorf("got %d token requests in ten minutes; want %d or more", len(asked), tt.least)
				}
				for i := 2; i < len(asked); i++ { // the first was for a token at all
					if gap := asked[i].Time.Sub(asked[i-1].Time); gap < tt.gap {
						t.Fatalf("got a token request %s after another; want %s or more", gap, tt.gap)
					}
				}
			})
		})
	}
}

func TestEachAudienceIsRenewedForItself(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.refuseFirst("/cis/refused", "")
		w.refuseFirst("/risk/refused", "")
		client := w.client()
		w.warm(t, client, 0)
		clientGet(t, client, mosaic.EU.URL("/risk/warm"))
		time.Sleep(10 * time.Second)
		clientGet(t, client, mosaic.EU.URL("/cis/refused")).want(t, 0, 200, "welcome")
		clientGet(t, client, mosaic.EU.URL("/risk/refused")).want(t, 0, 200, "welcome")
		w.wantTokenRequests(t, 4)
	})
}

func TestOneConnectionIsEnoughForARenewal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		body   func() io.Reader
		status int
	}{
		{"replayable", func() io.Reader { return strings.NewReader("form") }, 200},
		{"not replayable", func() io.Reader { return newClientBody() }, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.transport.MaxConnsPerHost = 1
				w.refuseFirst("/cis/refused", clientInvalidToken)
				client := w.client()
				w.warm(t, client, 10*time.Second)
				req := clientRequest(t, "POST", mosaic.EU.URL("/cis/refused"), tt.body())
				clientDo(client, req).want(t, 0, tt.status, "")
				clientGet(t, client, mosaic.EU.URL("/cis/next")).want(t, 0, 200, "")
				w.wantTokenRequests(t, 2)
				if got := w.dials.Load(); got != 1 {
					t.Errorf("dialed %d times; want once", got)
				}
			})
		})
	}
}

func TestA401OfMoreThan64KiBIsHandedOverWhole(t *testing.T) {
	for _, tt := range []struct {
		length, status int
		announced      bool // by Content-Length: the last bytes come with the body's end
	}{
		{0, 200, false},
		{64 << 10, 200, false},
		{64 << 10, 200, true},
		{64<<10 + 1, 401, false},
		{64<<10 + 1, 401, true},
		{1 << 20, 401, false},
	} {
		t.Run(fmt.Sprint(tt.length, " bytes, announced: ", tt.announced), func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.transport.MaxConnsPerHost = 1
				long := strings.Repeat("x", tt.length)
				var refused atomic.Bool
				w.Handle("/cis/refused", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if refused.CompareAndSwap(false, true) {
						if tt.announced {
							rw.Header().Set("Content-Length", fmt.Sprint(tt.length))
						}
						rw.WriteHeader(http.StatusUnauthorized)
						io.WriteString(rw, long)
					}
				}))
				client := w.client()
				w.warm(t, client, 10*time.Second)
				want := ""
				if tt.status == http.StatusUnauthorized {
					want = long
				}
				clientGet(t, client, mosaic.EU.URL("/cis/refused")).want(t, 0, tt.status, want)
				clientGet(t, client, mosaic.EU.URL("/cis/next")).want(t, 0, 200, "")
				w.wantTokenRequests(t, 2)
			})
		})
	}
}

func TestABodyOfA401ThatDoesNotEndIn5SecondsIsClosed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		long   int           // bytes of each half
		pause  time.Duration // between them
		took   time.Duration
		status int
		whole  bool
	}{
		{"4 s", 100, 4 * time.Second, 4 * time.Second, 200, true},
		{"4 s and too long", 40 << 10, 4 * time.Second, 4 * time.Second, 401, true},
		{"8 s", 100, 8 * time.Second, 5 * time.Second, 401, false},
		{"a day", 100, 24 * time.Hour, 5 * time.Second, 401, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				half := strings.Repeat("x", tt.long)
				var refused atomic.Bool
				w.Handle("/cis/refused", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if !refused.CompareAndSwap(false, true) {
						return
					}
					rw.WriteHeader(http.StatusUnauthorized)
					io.WriteString(rw, half)
					rw.(http.Flusher).Flush()
					select {
					case <-time.After(tt.pause):
						io.WriteString(rw, half)
					case <-r.Context().Done(): // the connection was closed
					}
				}))
				client := w.client()
				w.warm(t, client, 10*time.Second)
				r := clientGet(t, client, mosaic.EU.URL("/cis/refused"))
				if !tt.whole {
					if want := "mosaic: the body of the 401 did not end in time"; r.res == nil || r.res.StatusCode != 401 || r.took != tt.took || r.body != half || r.err == nil || r.err.Error() != want {
						t.Errorf("got %d bytes and error %v after %s; want the first half of a 401 and %q", len(r.body), r.err, r.took, want)
					}
					return
				}
				want := ""
				if tt.status == http.StatusUnauthorized {
					want = half + half
				}
				r.want(t, tt.took, tt.status, want)
			})
		})
	}
}

// Run with -race: a RoundTripper that counts bytes notices every reader beside
// the caller.
func TestNobodyReadsABodyThatHasBeenHandedBack(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		body, answer := io.Pipe()
		counting := &countingBody{ReadCloser: body}
		w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path != "/cis/refused" {
				return w.transport.RoundTrip(req)
			}
			go io.WriteString(answer, clientRefusal) // and no end
			return &http.Response{StatusCode: http.StatusUnauthorized, Body: counting}, nil
		})
		client := w.client()
		w.warm(t, client, 10*time.Second)
		res, err := client.Get(mosaic.EU.URL("/cis/refused"))
		if err != nil {
			t.Fatal(err)
		}
		if counting.read != len(clientRefusal) {
			t.Errorf("%d bytes were read; want %d", counting.read, len(clientRefusal))
		}
		if got, err := io.ReadAll(res.Body); string(got) != clientRefusal || err == nil {
			t.Errorf("got %q, error %v; want what has come, and an error", got, err)
		}
	})
}

// countingBody counts without a lock, as nothing but its one reader needs.
type countingBody struct {
	io.ReadCloser
	read int
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += n
	return n, err
}

func TestABodyOfA401ThatBreaksOffIsHandedOverAsItCame(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.Handle("/cis/refused", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Length", "100")
			rw.WriteHeader(http.StatusUnauthorized)
			io.WriteString(rw, "half")
		}))
		client := w.client()
		w.warm(t, client, 10*time.Second)
		r := clientGet(t, client, mosaic.EU.URL("/cis/refused"))
		if r.res == nil || r.body != "half" || !errors.Is(r.err, io.ErrUnexpectedEOF) {
			t.Errorf("got %q and error %v; want what came, and %v", r.body, r.err, io.ErrUnexpectedEOF)
		}
		if got := len(w.arrivals("/cis/refused")); got != 1 {
			t.Errorf("arrived %d times; want 1", got)
		}
	})
}

func TestTheBodyOfA401IsClosedBeforeTheRequestIsSentAgain(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.refuseFirst("/cis/refused", clientInvalidToken)
		var refusal *clientBody
		w.spy.base = clientRoundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path != "/cis/refused" {
				return w.transport.RoundTrip(req)
			}
			if refusal != nil {
				refusal.wantClosed(t)
			}
			res, err := w.transport.RoundTrip(req)
			if err == nil && res.StatusCode == http.StatusUnauthorized {
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				refusal = &clientBody{Reader: bytes.NewReader(body)}
				res.Body = refusal
			}
			return res, err
		})
		client := w.client()
		w.warm(t, client, 10*time.Second)
		clientGet(t, client, mosaic.EU.URL("/cis/refused")).want(t, 0, 200, "welcome")
		if refusal == nil {
			t.Error("there was no 401")
		}
	})
}

func TestTheCallersRequestIsNeitherModifiedNorGivenAToken(t *testing.T) {
	for _, path := range []string{"/cis/fine", "/cis/refused"} {
		clientBubble(t, func(t *testing.T, w *clientWorld) {
			w.refuseFirst("/cis/refused", clientInvalidToken)
			client := w.client()
			w.warm(t, client, 10*time.Second)
			req := clientRequest(t, "POST", mosaic.EU.URL(path), strings.NewReader("form"))
			req.Header = http.Header{"Accept": {"text/plain", "text/html"}, "User-Agent": nil, "X-Empty": {}}
			before, header, target := *req, req.Header.Clone(), *req.URL
			res, err := client.Transport.RoundTrip(req)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%s: got %v; want status 200", path, err)
			}
			res.Body.Close()
			if res.Request != req {
				t.Errorf("%s: the response's Request is not the caller's", path)
			}
			if !reflect.DeepEqual(req.Header, header) || *req.URL != target {
				t.Errorf("%s: the request's header or URL was modified", path)
			}
			if req.Body != before.Body || req.Host != before.Host || req.ContentLength != before.ContentLength || req.Response != before.Response {
				t.Errorf("%s: the request was modified", path)
			}
			for _, r := range w.arrivals(path) {
				if _, there := r.Header["User-Agent"]; there || len(r.Header["Accept"]) != 2 {
					t.Errorf("%s: arrived with %d values of Accept and a User-Agent: %t; want 2 and none", path, len(r.Header["Accept"]), there)
				}
			}
		})
	}
}

func TestTheRequestsBodyIsClosedOnEveryPath(t *testing.T) {
	failing := clientRoundTripper(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		return nil, errors.New("out of order")
	})
	for _, tt := range []struct {
		name   string
		target string
		change func(w *clientWorld)
		header http.Header
		want   string // of the error
	}{
		{"sent", "https://api.eu.transmitsecurity.io/cis/fine", func(*clientWorld) {}, nil, ""},
		{"refused", "https://api.eu.transmitsecurity.io/cis/refused", func(*clientWorld) {}, nil, ""},
		{"to a foreign origin", "https://evil.com", func(*clientWorld) {}, nil, ""},
		{"with its own Authorization", "https://api.eu.transmitsecurity.io/cis", func(*clientWorld) {}, http.Header{"Authorization": {"x"}}, ""},
		{"no token", "https://api.eu.transmitsecurity.io/cis", func(w *clientWorld) { w.SetSecret("another-secret") }, nil, "mosaic: token request"},
		{"no token in time", "https://api.eu.transmitsecurity.io/cis", func(w *clientWorld) { w.Fail(mosaictest.Fault{Hang: true}) }, nil, "mosaic: token request"},
		{"the base fails", "https://evil.com", func(w *clientWorld) { w.spy.base = failing }, nil, "out of order"},
		{"invalid Config", "https://evil.com", func(w *clientWorld) { w.conf.ClientID = "" }, nil, "mosaic: invalid Config"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientBubble(t, func(t *testing.T, w *clientWorld) {
				w.refuseFirst("/cis/refused", clientInvalidToken)
				tt.change(w)
				client := w.client()
				if strings.HasSuffix(tt.target, "/refused") {
					w.warm(t, client, 10*time.Second)
				}
				var again []*clientBody
				body := newClientBody()
				req := clientRequest(t, "POST", tt.target, body)
				req.GetBody = func() (io.ReadCloser, error) {
					again = append(again, newClientBody())
					return again[len(again)-1], nil
				}
				maps.Copy(req.Header, tt.header)
				r := clientDo(client, req)
				if tt.want == "" && r.err != nil || tt.want != "" && (r.err == nil || !strings.Contains(r.err.Error(), tt.want)) {
					t.Errorf("got error %v; want %q", r.err, tt.want)
				}
				synctest.Wait()
				for _, b := range append(again, body) {
					b.wantClosed(t)
				}
				if strings.HasSuffix(tt.target, "/refused") && len(again) != 1 {
					t.Errorf("GetBody was called %d times; want once", len(again))
				}
			})
		})
	}
}

func TestABodyThatCannotBeHadAgainAfterAllLeavesThe401(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.refuseFirst("/cis/refused", clientInvalidToken)
		client := w.client()
		w.warm(t, client, 10*time.Second)
		req := clientRequest(t, "POST", mosaic.EU.URL("/cis/refused"), newClientBody())
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		clientDo(client, req).want(t, 0, 401, clientRefusal)
	})
}

func TestARequestWithoutAURLIsAnError(t *testing.T) {
	w := newClientWorld(t)
	defer func() {
		if v := recover(); v != nil {
			t.Errorf("got a panic: %v; want an error", v)
		}
	}()
	body := newClientBody()
	if _, err := w.conf.Client(clientContext(&http.Client{Transport: w.transport})).Transport.RoundTrip(&http.Request{Header: http.Header{}, Body: body}); err == nil {
		t.Error("got no error; want the base's")
	}
	body.wantClosed(t)
}

func TestABaseThatEditsItsHeaderSpoilsNobodyElses(t *testing.T) {
	w := newClientWorld(t)
	edit := clientRoundTripper(func(req *http.Request) (*http.Response, error) {
		for name := range req.Header {
			if name != "Authorization" {
				req.Header.Add(name, "more") // reaches no other of its values
			}
		}
		res, err := w.transport.RoundTrip(req)
		for name, values := range req.Header {
			for i := range values {
				values[i] = "edited"
			}
			req.Header[name] = append(values, "more")
		}
		req.Header.Set("X-More", "more")
		req.Header.Del("Accept")
		return res, err
	})
	client := w.conf.Client(clientContext(&http.Client{Transport: edit}))
	header := http.Header{"Accept": {"text/plain"}, "Authorizatio": {"a"}}
	want := header.Clone()
	for range 3 {
		req := clientRequest(t, "GET", mosaic.EU.URL("/cis"), nil)
		req.Header = header // shared, as in a loop
		res, err := client.Transport.RoundTrip(req)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("got %v; want status 200: the next request's header is its own", err)
		}
		res.Body.Close()
		if !reflect.DeepEqual(header, want) {
			t.Fatal("the caller's header was edited")
		}
	}
	if got := len(w.TokenRequests()); got != 1 {
		t.Errorf("got %d token requests; want 1", got)
	}
}

func TestTheContextsClientIsKeptAndUntouched(t *testing.T) {
	w := newClientWorld(t)
	w.Handle("/cis/hop", http.RedirectHandler("/cis/elsewhere", http.StatusFound))
	w.Handle("/cis/cookie", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.SetCookie(rw, &http.Cookie{Name: "c", Value: "v"})
	}))
	jar, _ := cookiejar.New(nil)
	own := &http.Client{
		Transport:     w.spy,
		Jar:           jar,
		Timeout:       7 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client := w.conf.Client(clientContext(own))
	if client.Timeout != own.Timeout {
		t.Errorf("got timeout %s; want %s", client.Timeout, own.Timeout)
	}
	if r := clientGet(t, client, mosaic.EU.URL("/cis/hop")); r.err != nil || r.res.StatusCode != http.StatusFound {
		t.Errorf("got %v; want the redirect, which CheckRedirect does not follow", r.err)
	}
	clientGet(t, client, mosaic.EU.URL("/cis/cookie"))
	clientGet(t, client, mosaic.EU.URL("/cis/next"))
	if got := w.arrivals("/cis/next")[0].Header.Get("Cookie"); got != "c=v" {
		t.Errorf("got cookie %q; want that of the jar", got)
	}
	client.CloseIdleConnections()
	if got := w.spy.closed.Load(); got != 1 {
		t.Errorf("CloseIdleConnections reached the base %d times; want once", got)
	}
	if own.Transport != w.spy || own.Jar != jar || own.Timeout != 7*time.Second || own.CheckRedirect == nil {
		t.Error("the context's client was changed")
	}

	// It is also enough that a base can do nothing but send.
	client = w.conf.Client(clientContext(&http.Client{Transport: clientRoundTripper(w.transport.RoundTrip)}))
	client.CloseIdleConnections()
	if r := clientGet(t, client, mosaic.EU.URL("/cis")); r.err != nil {
		t.Error(r.err)
	}
}

func TestWithoutATransportTheDefaultOneIsUsed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oidc/token" {
			rw.Header().Set("Content-Type", "application/json")
			io.WriteString(rw, `{"access_token":"t","expires_in":3600}`)
			return
		}
		fmt.Fprint(rw, r.Header["Authorization"])
	}))
	defer srv.Close()
	conf := &mosaic.Config{ClientID: "id", ClientSecret: "s3cr3t!!", Endpoint: mosaic.Endpoint(srv.URL)}
	for name, ctx := range map[string]context.Context{
		"no client":                  t.Context(),
		"a nil client":               clientContext(nil),
		"a client without transport": clientContext(new(http.Client)),
	} {
		if r := clientGet(t, conf.Client(ctx), srv.URL); r.err != nil || r.body != "[Bearer t]" {
			t.Errorf("%s: got %d bytes, %v; want a request with its token", name, len(r.body), r.err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAnInvalidConfigsClientSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*mosaic.Config)
		want   string
	}{
		{"two fields", func(c *mosaic.Config) { c.ClientID, c.Hosts = "", []string{"*.acme.com"} },
			`mosaic: invalid Config: ClientID is empty; Hosts: "*.acme.com" has a bad host: want a host name, with a port or without`},
		{"no endpoint", func(c *mosaic.Config) { c.Endpoint = "" },
			"mosaic: invalid Config: Endpoint is empty: set the region that the credentials belong to, such as mosaic.EU"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newClientWorld(t)
			tt.change(w.conf)
			client := w.client()
			client.CloseIdleConnections()
			for _, target := range []string{mosaic.EU.URL("/cis"), "https://evil.com/"} {
				body := newClientBody()
				r := clientDo(client, clientRequest(t, "POST", target, body))
				if want := fmt.Sprintf("Post %q: %s", target, tt.want); r.err == nil || r.err.Error() != want {
					t.Errorf("got %v; want %s", r.err, want)
				}
				body.wantClosed(t)
			}
			if got := len(w.APIRequests()) + len(w.TokenRequests()); got != 0 {
				t.Errorf("%d requests were sent; want none", got)
			}
		})
	}
}

func TestAHundredGoroutinesOverAllServicesThroughExpiriesAndRevocations(t *testing.T) {
	clientBubble(t, func(t *testing.T, w *clientWorld) {
		w.SetLifetime(30 * time.Second)
		w.SetLatency(100*time.Millisecond, 100*time.Millisecond)
		client := w.client()
		paths := []string{"/cis/v1/users", "/verify/api", "/risk/v1/recommendation", "/xdv/v1"}
		begun := time.Now()
		const period, end = 25 * time.Second, 2 * time.Minute
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for time.Since(begun) < end {
					sent := time.Since(begun)
					req := clientRequest(t, []string{"GET", "POST"}[i/4%2], mosaic.EU.URL(paths[i%4]), strings.NewReader("form"))
					r := clientDo(client, req)
					// A token that was revoked young is renewed ten seconds later.
					young := sent >= period && (sent%period < 11*time.Second || sent%period > period-time.Second)
					if r.err != nil || r.res.StatusCode != 200 && !(young && r.res.StatusCode == 401) {
						t.Errorf("%s after %s: error %v; want status 200", paths[i%4], sent, r.err)
						return
					}
					time.Sleep(3 * time.Second)
				}
			})
		}
		wg.Go(func() {
			for time.Since(begun) < end {
				time.Sleep(period)
				w.Revoke()
			}
		})
		wg.Wait()
		// Tokens are renewed after 18 to 20 s, and when they are revoked.
		if got := len(w.TokenRequests()); got < 4*6 || got > 4*16 {
			t.Errorf("got %d token requests; want about one for each token's life", got)
		}
	})
}
