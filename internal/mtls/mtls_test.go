package mtls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestACertificatesEndIsItsNotAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert := issue(t, newEC(t, elliptic.P256()), time.Now().Add(time.Hour))
		for _, tt := range []struct {
			after time.Duration
			want  string
		}{
			{0, ""},
			{time.Hour, ""},
			{time.Hour + 1, "it has expired: its NotAfter is 2000-01-01T01:00:00Z"},
		} {
			time.Sleep(tt.after - time.Since(cert.Leaf.NotAfter.Add(-time.Hour)))
			got := ""
			if problems := Problems(cert); problems != nil {
				got = errors.Join(problems...).Error()
			}
			if got != tt.want {
				t.Errorf("after %v: got %q; want %q", tt.after, got, tt.want)
			}
		}
	})
}

func TestProblemsAreThoseOfTheCertificateThatIsPresented(t *testing.T) {
	cert := issue(t, newEC(t, elliptic.P256()), time.Now().Add(time.Hour))
	stale := *cert
	stale.Leaf = issue(t, newEC(t, elliptic.P256()), time.Now().Add(time.Hour)).Leaf
	if problems := Problems(&stale); problems != nil {
		t.Errorf("got %q; want none, whatever the field Leaf holds", problems)
	}
}

func TestCertificatesHaveKeysOfMoreKinds(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"RSA":     rsaKey,
		"P-256":   newEC(t, elliptic.P256()),
		"P-384":   newEC(t, elliptic.P384()),
		"P-521":   newEC(t, elliptic.P521()),
		"Ed25519": edKey,
		"hidden":  struct{ crypto.Signer }{edKey},
	} {
		if problems := Problems(issue(t, key, time.Now().Add(time.Hour))); problems != nil {
			t.Errorf("%s: %q", name, problems)
		}
	}
}

func TestSameKey(t *testing.T) {
	a, b := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	again := a.PublicKey
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		a, b crypto.PublicKey
		want bool
	}{
		{"one key", a.Public(), a.Public(), true},
		{"equal keys", a.Public(), &again, true},
		{"two keys", a.Public(), b.Public(), false},
		{"keys of two types", a.Public(), ed.Public(), false},
		{"no key", a.Public(), nil, false},
		{"no key first", nil, a.Public(), false},
		{"two of what cannot be compared", "x", "x", false},
	} {
		if got := SameKey(tt.a, tt.b); got != tt.want {
			t.Errorf("%s: got %v; want %v", tt.name, got, tt.want)
		}
	}
}

// The example of RFC 8705, appendix A.
func TestTheThumbprintIsThatOfTheRFC(t *testing.T) {
	block, _ := pem.Decode([]byte(`-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----`))
	const want = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
	if got := Thumbprint(block.Bytes); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestBindSpeaksWhatItsBaseSpeaks(t *testing.T) {
	cert := issue(t, newEC(t, elliptic.P256()), time.Now().Add(time.Hour))
	both, old := newServer(t, true), newServer(t, false)
	used := new(http.Transport)
	used.CloseIdleConnections() // which sets it up for HTTP/2
	dial := new(net.Dialer).DialContext
	for _, tt := range []struct {
		name string
		base http.RoundTripper
		want string // of a server that speaks HTTP/2, too
	}{
		{"none", nil, "HTTP/2.0 1"},
		{"http.DefaultTransport", http.DefaultTransport, "HTTP/2.0 1"},
		{"a clone of http.DefaultTransport", http.DefaultTransport.(*http.Transport).Clone(), "HTTP/2.0 1"},
		{"zero", new(http.Transport), "HTTP/2.0 1"},
		{"zero, and used", used, "HTTP/2.0 1"},
		{"a dialer", &http.Transport{DialContext: dial}, "HTTP/1.1 1"}, // net/http's caution
		{"a dialer, and ForceAttemptHTTP2", &http.Transport{DialContext: dial, ForceAttemptHTTP2: true}, "HTTP/2.0 1"},
	} {
		for srv, want := range map[*httptest.Server]string{both: tt.want, old: "HTTP/1.1 1"} {
			bound, err := Bind(tt.base, cert, unguarded)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			bound.TLSClientConfig.RootCAs = srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs // base's would be the system's
			if got := get(t, bound, srv.URL); got != want {
				t.Errorf("%s: got protocol and number of certificates %s; want %s", tt.name, got, want)
			}
			bound.CloseIdleConnections()
		}
	}
	if config := http.DefaultTransport.(*http.Transport).TLSClientConfig; config.GetClientCertificate != nil || config.ClientSessionCache != nil {
		t.Error("http.DefaultTransport presents the certificate itself")
	}
}

// newServer returns a server that answers with the protocol it was asked by and
// the number of certificates that were presented.
func newServer(t testing.TB, http2 bool) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %d", r.Proto, len(r.TLS.PeerCertificates))
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = http2
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func get(t testing.TB, transport http.RoundTripper, url string) string {
	t.Helper()
	res, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestNoTwoBoundTransportsShareTLSSessions(t *testing.T) {
	cert := issue(t, newEC(t, elliptic.P256()), time.Now().Add(time.Hour))
	base := &http.Transport{TLSClientConfig: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}}
	seen := map[tls.ClientSessionCache]bool{nil: true, base.TLSClientConfig.ClientSessionCache: true}
	for range 2 {
		bound, err := Bind(base, cert, unguarded)
		if err != nil {
			t.Fatal(err)
		}
		if cache := bound.TLSClientConfig.ClientSessionCache; seen[cache] {
			t.Error("got no cache, or one that another transport has; want its own")
		} else {
			seen[cache] = true
		}
	}
}

func issue(t testing.TB, key crypto.Signer, notAfter time.Time) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0), // a bubble's clock starts in the year 2000
		NotAfter:     notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unguarded(sign func() ([]byte, error)) ([]byte, error) { return sign() }

func TestTheCertificatesKeyIsCalledByTheGuardAlone(t *testing.T) {
	for _, key := range []crypto.Signer{newEC(t, elliptic.P256()), ed25519.NewKeyFromSeed(make([]byte, 32))} {
		srv := newServer(t, false)
		var guarded int
		bound, err := Bind(srv.Client().Transport, issue(t, key, time.Now().Add(time.Hour)), func(sign func() ([]byte, error)) ([]byte, error) {
			guarded++
			if _, err := sign(); err != nil {
				t.Errorf("%T: got %v; want a signature", key, err)
			}
			return nil, errors.New("out of order")
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&http.Client{Transport: bound}).Get(srv.URL)
		if err == nil || !strings.Contains(err.Error(), "out of order") || guarded != 1 {
			t.Errorf("%T: got %v, guarded %d times; want the guard's error, once", key, err, guarded)
		}
	}
}

func TestACloneClosesItsIdleConnectionsInTheEnd(t *testing.T) {
	cert := issue(t, newEC(t, elliptic.P256()), time.Now().Add(time.Hour))
	for base, want := range map[time.Duration]time.Duration{0: 90 * time.Second, time.Second: time.Second} {
		bound, err := Bind(&http.Transport{IdleConnTimeout: base}, cert, unguarded)
		if err != nil {
			t.Fatal(err)
		}
		if bound.IdleConnTimeout != want {
			t.Errorf("of a base with %s: got %s; want %s", base, bound.IdleConnTimeout, want)
		}
	}
}
