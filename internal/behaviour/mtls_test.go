package behaviour_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// transportTo returns a transport to srv, with net/http's defaults otherwise.
func transportTo(srv *mosaictest.Server) *http.Transport {
	tr := srv.Client().Transport.(*http.Transport)
	return &http.Transport{DialContext: tr.DialContext, TLSClientConfig: &tls.Config{RootCAs: tr.TLSClientConfig.RootCAs}}
}

// transports are those of callers.
var transports = []struct {
	name   string
	change func(*http.Transport)
	proto  string
}{
	{"plain", func(b *http.Transport) {}, "HTTP/1.1"},
	{"ForceAttemptHTTP2", func(b *http.Transport) { b.ForceAttemptHTTP2 = true }, "HTTP/2.0"},
	{"HTTP/2 given up by an empty TLSNextProto", func(b *http.Transport) { b.ForceAttemptHTTP2 = true; setHTTP2(b) }, "HTTP/1.1"},
	{"Protocols of HTTP/1.1", func(b *http.Transport) { b.Protocols = protocols(true, false, false) }, "HTTP/1.1"},
	{"Protocols of HTTP/1.1 over ForceAttemptHTTP2", func(b *http.Transport) { b.Protocols, b.ForceAttemptHTTP2 = protocols(true, false, false), true }, "HTTP/1.1"},
	{"Protocols of HTTP/1.1 and unencrypted HTTP/2", func(b *http.Transport) { b.Protocols = protocols(true, false, true) }, "HTTP/1.1"},
	{"Protocols of both", func(b *http.Transport) { b.Protocols = protocols(true, true, false) }, "HTTP/2.0"},
	{"Protocols of HTTP/2", func(b *http.Transport) { b.Protocols = protocols(false, true, false) }, "HTTP/2.0"},
	{"HTTP/2 by hand", func(b *http.Transport) { setHTTP2(b, "h2") }, "HTTP/2.0"},
	{"HTTP/2 by hand, beside another protocol", func(b *http.Transport) { setHTTP2(b, "h2", "acme/1") }, "HTTP/2.0"},
	{"HTTP/2 by x/net", func(b *http.Transport) { setHTTP2(b, "h2", "unencrypted_http2") }, "HTTP/2.0"},
	{"HTTP/2 by x/net, with Protocols", func(b *http.Transport) {
		b.Protocols = protocols(true, true, false)
		setHTTP2(b, "h2", "unencrypted_http2")
	}, "HTTP/2.0"},
	{"HTTP/2 by x/net, against Protocols", func(b *http.Transport) {
		b.Protocols = protocols(true, false, false)
		setHTTP2(b, "h2", "unencrypted_http2")
	}, "HTTP/2.0"},
	{"a certificate of its own", func(b *http.Transport) {
		b.TLSClientConfig.Certificates = []tls.Certificate{*ownCertificate()}
		b.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return ownCertificate(), nil }
	}, "HTTP/1.1"},
	{"resuming TLS sessions", func(b *http.Transport) { b.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0) }, "HTTP/1.1"},
	{"resuming TLS sessions, HTTP/2", func(b *http.Transport) {
		b.ForceAttemptHTTP2 = true
		b.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}, "HTTP/2.0"},
}

var ownCertificate = sync.OnceValue(func() *tls.Certificate { return kit.Certificate(new(testing.T), "the caller", kit.EC(), nil) })

func protocols(http1, http2, unencrypted bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetHTTP2(http2)
	p.SetUnencryptedHTTP2(unencrypted)
	return p
}

// setHTTP2 does to base what http2.ConfigureTransports of golang.org/x/net does: entries of these
// names lead into an HTTP/2 pool of base's own. (x/net would be a third module; here the pool is
// another transport, over base's connections.)
func setHTTP2(base *http.Transport, names ...string) {
	conns := make(chan net.Conn, 100)
	pool := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return <-conns, nil },
	}
	base.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	for _, name := range names {
		base.TLSNextProto[name] = func(_ string, c *tls.Conn) http.RoundTripper { conns <- c; return pool }
		base.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"}
	}
}

// Two clients and the caller itself share one transport. Each request arrives under its sender's
// certificate, and the caller's transport stays as it is.
func TestEachRequestArrivesUnderItsOwnCertificate(t *testing.T) {
	for _, tt := range transports {
		t.Run(tt.name, func(t *testing.T) {
			srv := mosaictest.Start(t)
			pool := x509.NewCertPool()
			pool.AddCert(kit.Certificate(t, "another CA", kit.EC(), nil).Leaf)
			srv.RegisterCA("another", pool, "CN=another") // the server now names CAs that are not ours
			srv.BindTokens(true)
			base := transportTo(srv)
			tt.change(base)
			own := &http.Client{Transport: base, Timeout: time.Hour}
			ctx := context.WithValue(t.Context(), oauth2.HTTPClient, own)

			wantOwn := func(when string) {
				t.Helper()
				srv.ForgetRequests()
				if err := kit.Fetch(own, srv.Endpoint().URL("/x"), http.StatusUnauthorized); err != nil {
					t.Fatalf("%s, the caller's own client: %v", when, err)
				}
				want := len(base.TLSClientConfig.Certificates) > 0
				if req := srv.APIRequests()[0]; req.Proto != tt.proto || want && !req.Certificate.Equal(ownCertificate().Leaf) || !want && req.Certificate != nil {
					t.Errorf("%s, the caller's own request: %s, with a certificate: %t; want %s, %t", when, req.Proto, req.Certificate != nil, tt.proto, want)
				}
			}
			wantOwn("before")
			base.CloseIdleConnections()
			wantOwn("with a TLS session to resume")
			before := fields(own, base, base.TLSClientConfig)

			srv.ForgetRequests()
			certs := make(map[string]*tls.Certificate)
			for _, id := range []string{"a", "b"} {
				conf := kit.CertificateClient(t, srv, id)
				certs[id] = conf.Certificate
				if _, err := conf.Token(ctx); err != nil {
					t.Fatalf("%s: %v", id, err)
				}
				client := conf.Client(ctx)
				for range 2 {
					if err := kit.Fetch(client, srv.Endpoint().URL("/cis/"+id), http.StatusOK); err != nil {
						t.Errorf("%s, calling an API: %v", id, err)
					}
				}
			}
			arrived := append(srv.TokenRequests(), srv.APIRequests()...)
			if len(arrived) != 8 {
				t.Errorf("got %d requests; want 4 for tokens and 4 to APIs", len(arrived))
			}
			for _, req := range arrived {
				id := req.Form.Get("client_id") + strings.TrimPrefix(req.RequestURI, "/cis/")
				if cert := certs[id[:1]]; req.Certificate == nil || !req.Certificate.Equal(cert.Leaf) || req.Proto != tt.proto || req.Status != 200 {
					t.Errorf("%s: %s, status %d, under its own certificate: %t; want %s, 200, true", id, req.Proto, req.Status, req.Certificate.Equal(cert.Leaf), tt.proto)
				}
			}
			for field, value := range fields(own, base, base.TLSClientConfig) {
				if value != before[field] {
					t.Errorf("%s of the caller has changed", field)
				}
			}
			wantOwn("after")
		})
	}
}

// fields returns the exported fields of structs, for a comparison.
func fields(structs ...any) map[string]string {
	all := make(map[string]string)
	for _, of := range structs {
		v := reflect.ValueOf(of).Elem()
		for i := range v.NumField() {
			f, field := v.Type().Field(i), v.Field(i)
			if field.Kind() == reflect.Interface {
				field = field.Elem()
			}
			switch {
			case !f.IsExported():
			case field.Kind() == reflect.Pointer:
				all[v.Type().String()+"."+f.Name] = fmt.Sprint(field.Pointer())
			default:
				all[v.Type().String()+"."+f.Name] = fmt.Sprint(field)
			}
		}
	}
	return all
}

func TestACertificateOfACAComesWithItsIntermediate(t *testing.T) {
	root := kit.Certificate(t, "root CA", kit.EC(), nil)
	intermediate := kit.Certificate(t, "intermediate CA", kit.EC(), root)
	pool := x509.NewCertPool()
	pool.AddCert(root.Leaf)
	for _, key := range []crypto.Signer{kit.RSA(), kit.EC(), kit.Ed25519()} {
		for _, key := range []crypto.Signer{key, &kit.Signer{Signer: key}} {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				srv.RegisterCA("acme", pool, "CN=acme")
				conf := &mosaic.Config{ClientID: "acme", Certificate: kit.Certificate(t, "acme", key, intermediate), Endpoint: srv.Endpoint()}
				if _, err := conf.Token(srv.Context(t.Context())); err != nil {
					t.Errorf("%T: got %v; want a token", key, err)
				}
			})
		}
	}
}

// boundTo returns the x5t#S256 of a token's certificate, or "".
func boundTo(t testing.TB, tok *oauth2.Token) string {
	t.Helper()
	claims, err := mosaic.ParseClaims(tok)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Confirmation == nil {
		return ""
	}
	return claims.Confirmation.CertificateThumbprint
}

func x5t(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestATokenEndsNoLaterThanItsCertificate(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf, ctx := kit.CertificateClient(t, srv, "acme"), srv.Context(t.Context())
		conf.Certificate = kit.Certificate(t, "acme", kit.EC(), nil, kit.Lifetime(20*time.Minute))
		srv.RegisterCertificate("acme", conf.Certificate.Leaf)
		end := conf.Certificate.Leaf.NotAfter
		src := conf.TokenSource(ctx)
		kit.Every(time.Second, time.Until(end)-time.Minute, func() {
			if tok := kit.Promptly(t, src); !tok.Expiry.Equal(end) {
				t.Fatalf("the token ends at %s; want %s", tok.Expiry, end)
			}
		})
		if n := len(srv.TokenRequests()); n < 2 || n > 50 {
			t.Errorf("got %d requests; want some before the end", n)
		}
		time.Sleep(time.Until(end))
		srv.ForgetRequests()
		kit.Every(time.Second, time.Hour, func() {
			if tok, err := src.Token(); err == nil && time.Now().After(end) {
				t.Fatalf("got a token that ends at %s", tok.Expiry)
			}
		})
		if n := len(srv.TokenRequests()); n > 250 {
			t.Errorf("after its end got %d requests in an hour; want 250 at most", n)
		}
	})
}

func TestProxyAndDialContextOfTheTransportAreKept(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		base, tunnels := transportTo(srv), 0
		dial := base.DialContext
		base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.acme.com:3128"})
		base.DialContext = func(_ context.Context, network, addr string) (net.Conn, error) {
			if addr != "proxy.acme.com:3128" {
				return nil, fmt.Errorf("%s was dialed past the proxy", addr)
			}
			tunnels++
			client, proxy := net.Pipe()
			go func() {
				defer proxy.Close()
				connect, err := http.ReadRequest(bufio.NewReader(proxy))
				if err != nil {
					return
				}
				server, err := dial(context.Background(), network, connect.Host)
				if err != nil {
					return
				}
				defer server.Close()
				io.WriteString(proxy, "HTTP/1.1 200 OK\r\n\r\n")
				go func() { io.Copy(server, proxy); server.Close() }()
				io.Copy(proxy, server)
			}()
			return client, nil
		}
		if _, err := kit.CertificateClient(t, srv, "acme").Token(kit.Over(t.Context(), base)); err != nil || tunnels != 1 {
			t.Errorf("got %v after %d tunnels; want a token through one", err, tunnels)
		}
	})
}

// unclonable transports cannot present a certificate of ours.
var unclonable = map[string]http.RoundTripper{
	"an instrumented one": kit.RoundTripper(nil),
	"nil":                 (*http.Transport)(nil),
	//lint:ignore SA1019 deprecated, and in force
	"DialTLS":        &http.Transport{DialTLS: func(string, string) (net.Conn, error) { return nil, io.EOF }},
	"DialTLSContext": &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }},
}

func TestATransportThatCannotPresentTheCertificateIsAnErrorThatNamesTheWayOut(t *testing.T) {
	for name, base := range unclonable {
		for _, tt := range []struct {
			change      func(*mosaic.Config)
			want, other string
		}{
			{func(*mosaic.Config) {}, "TLSClientAuth", "drop Certificate"},
			{func(c *mosaic.Config) { c.ClientSecret = "s" }, "drop Certificate", "TLSClientAuth"},
			{func(c *mosaic.Config) { c.PrivateKey = kit.EC() }, "drop Certificate", "TLSClientAuth"},
		} {
			conf := &mosaic.Config{ClientID: "acme", Certificate: kit.Certificate(t, "acme", kit.EC(), nil), Endpoint: mosaic.EU}
			tt.change(conf)
			ctx := kit.Over(t.Context(), base)
			_, tokenErr := conf.Token(ctx)
			_, sourceErr := conf.TokenSource(ctx).Token()
			_, clientErr := conf.Client(ctx).Transport.RoundTrip(&http.Request{URL: &url.URL{Scheme: "https", Host: "x"}})
			for _, err := range []error{tokenErr, sourceErr, clientErr} {
				if text := fmt.Sprint(err); !kit.IsLine(err) || !strings.Contains(text, tt.want) || strings.Contains(text, tt.other) {
					t.Errorf("%s: got %v; want %s in it", name, err, tt.want)
				}
			}
		}
	}
}

// counting returns base with a DialContext that counts the connections dialed and open.
func counting(base *http.Transport) (dialed, open *atomic.Int32) {
	dialed, open = new(atomic.Int32), new(atomic.Int32)
	dial := base.DialContext
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			dialed.Add(1)
			open.Add(1)
			conn = &countedConn{conn, sync.OnceFunc(func() { open.Add(-1) })}
		}
		return conn, err
	}
	return dialed, open
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func TestConnectionsThatPresentTheCertificateAreFewAndClosed(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		base := transportTo(srv)
		dialed, open := counting(base)
		want := func(who string, wantDialed, wantOpen int32) {
			t.Helper()
			synctest.Wait()
			if d, o := dialed.Swap(0), open.Load(); d != wantDialed || o != wantOpen {
				t.Errorf("%s: %d connections were made, and %d are open; want %d and %d", who, d, o, wantDialed, wantOpen)
			}
		}
		conf, ctx := kit.CertificateClient(t, srv, "acme"), kit.Over(t.Context(), base)
		if _, err := conf.Token(ctx); err != nil {
			t.Fatal(err)
		}
		want("Config.Token", 1, 0)
		srv.FailNext(1, mosaictest.Fault{Status: 400})
		if _, err := conf.Token(ctx); err == nil {
			t.Fatal("got a token in spite of the fault")
		}
		want("Config.Token that fails", 1, 0)
		src := conf.TokenSource(ctx)
		for range 3 {
			src.Invalidate(kit.Promptly(t, src))
		}
		want("a source with three tokens", 1, 1)
		client := conf.Client(ctx)
		for _, path := range []string{"/cis/x", "/risk/x", "/verify/x", "/xdv/x"} {
			if err := kit.Fetch(client, srv.Endpoint().URL(path), http.StatusOK); err != nil {
				t.Fatal(err)
			}
		}
		want("a client that has called every service", 1, 2)
		client.CloseIdleConnections()
		want("a client whose connections were closed", 0, 1)
	})
}

// Such a transport presents the certificate by itself, and nothing is cloned: it sees each request.
func TestTLSClientAuthIsForAnyTransport(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		cert := kit.Certificate(t, "acme", kit.EC(), nil)
		srv.RegisterCertificate("acme", cert.Leaf)
		base, seen := transportTo(srv), 0
		base.TLSClientConfig.Certificates = []tls.Certificate{*cert}
		dialed, _ := counting(base)
		ctx := kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) { // instrumented
			seen++
			req = req.Clone(req.Context())
			req.Header.Set("User-Agent", "acme/1")
			return base.RoundTrip(req)
		}))
		conf := &mosaic.Config{ClientID: "acme", TLSClientAuth: true, Endpoint: srv.Endpoint()}
		tok, err := conf.Token(ctx)
		if err != nil || boundTo(t, tok) != x5t(cert.Leaf) {
			t.Fatalf("got %v; want a token bound to the certificate", err)
		}
		if err := kit.Fetch(conf.Client(ctx), srv.Endpoint().URL("/cis/x"), http.StatusOK); err != nil {
			t.Error(err)
		}
		for _, req := range srv.TokenRequests() {
			if got := req.Form.Encode(); got != "client_id=acme&grant_type=client_credentials" || req.RequestURI != "/cis/oidc/token" {
				t.Errorf("got %s to %s; want client_id as the only credential", got, req.RequestURI)
			}
		}
		for _, req := range append(srv.TokenRequests(), srv.APIRequests()...) {
			if got := req.Header.Get("User-Agent"); got != "acme/1" || !req.Certificate.Equal(cert.Leaf) {
				t.Errorf("%s came from %s", req.RequestURI, got)
			}
		}
		if seen != 3 || dialed.Load() != 1 {
			t.Errorf("the transport saw %d requests on %d connections; want all 3 on one", seen, dialed.Load())
		}
		base.CloseIdleConnections()
	})
}
