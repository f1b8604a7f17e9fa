package mtls_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/mtls"
)

var nowhere = slog.New(slog.DiscardHandler)

func TestACertificateIsValidFromItsNotBeforeToItsNotAfter(t *testing.T) {
	kit.NoFIPS(t)
	const early, late = "Certificate is not valid yet: its NotBefore is 2000-01-01T01:00:00Z", "Certificate has expired: its NotAfter is 2000-01-01T02:00:00Z"
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		cert := kit.Certificate(t, "acme", kit.EC(), nil, kit.Lifetime(2*time.Hour), func(c *x509.Certificate) { c.NotBefore = begun.Add(time.Hour) })
		for _, tt := range []struct {
			after time.Duration
			want  string
		}{
			{0, early},
			{55*time.Minute - 1, early}, // five minutes ahead of the local clock
			{55 * time.Minute, ""},
			{2 * time.Hour, ""},
			{2*time.Hour + 1, late},
		} {
			time.Sleep(tt.after - time.Since(begun))
			got := ""
			if _, err := mtls.New(cert); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("after %v: got %q; want %q", tt.after, got, tt.want)
			}
		}
	})
}

func TestTheLeafHasToComeFirst(t *testing.T) {
	root := kit.Certificate(t, "root CA", kit.EC(), nil)
	leaf := kit.Certificate(t, "acme\n"+strings.Repeat("e", 1000), kit.NewEC(t), kit.Certificate(t, "CA", kit.Ed25519(), root))
	for _, tt := range []struct {
		order []int
		want  string
	}{
		{[]int{0, 1, 2}, `^$`},
		{[]int{0, 0}, `^$`},
		{[]int{2, 1, 0}, `^Certificate: the leaf has to come first, but the private key belongs to number 3 of the chain \(CN=acme e+…\)$`},
		{[]int{1, 0, 2}, `^Certificate: the leaf has to come first, but the private key belongs to number 2 of the chain `},
		{[]int{2, 1}, `^Certificate: the private key does not match it$`},
	} {
		ordered := tls.Certificate{PrivateKey: leaf.PrivateKey}
		for _, i := range tt.order {
			ordered.Certificate = append(ordered.Certificate, leaf.Certificate[i])
		}
		got := ""
		if _, err := mtls.New(&ordered); err != nil {
			got = err.Error()
		}
		if !regexp.MustCompile(tt.want).MatchString(got) || len(got) > 250 {
			t.Errorf("in the order %v: got %q; want %s", tt.order, got, tt.want)
		}
	}
}

func TestTheLeafIsThatOfTheChain(t *testing.T) {
	cert := certificate(t, kit.EC(), time.Hour)
	stale := *cert
	stale.Leaf = certificate(t, kit.NewEC(t), time.Hour).Leaf
	if got, err := mtls.New(&stale); err != nil || !got.Leaf.Equal(cert.Leaf) {
		t.Errorf("got error %v; want the leaf of the chain, whatever the field Leaf holds", err)
	}
}

func TestACertificateIsACopy(t *testing.T) {
	cert := certificate(t, kit.EC(), time.Hour)
	got, err := mtls.New(cert)
	if err != nil {
		t.Fatal(err)
	}
	want := got.Certificate.Certificate[0][10]
	cert.Certificate[0][10]++
	if cert.Certificate[0] = nil; got.Certificate.Certificate[0][10] != want {
		t.Error("the copy has changed with the original")
	}
}

func TestATransportSpeaksWhatItsBaseSpeaks(t *testing.T) {
	cert := certificate(t, kit.EC(), time.Hour)
	both, old := newServer(t, true), newServer(t, false)
	used := new(http.Transport)
	used.CloseIdleConnections() // which sets it up for HTTP/2
	for _, tt := range []struct {
		name string
		base http.RoundTripper
	}{
		{"http.DefaultTransport", http.DefaultTransport},
		{"a clone of http.DefaultTransport", http.DefaultTransport.(*http.Transport).Clone()},
		{"zero", new(http.Transport)},
		{"zero, and used", used},
	} {
		for srv, want := range map[*httptest.Server]string{both: "HTTP/2.0 1", old: "HTTP/1.1 1"} {
			bound := transport(t, tt.base, cert)
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

func certificate(t testing.TB, key crypto.Signer, lifetime time.Duration) *tls.Certificate {
	t.Helper()
	return kit.Certificate(t, "acme", key, nil, kit.Lifetime(lifetime))
}

// transport returns a Transport of cert over base.
func transport(t testing.TB, base http.RoundTripper, cert *tls.Certificate) *mtls.Transport {
	t.Helper()
	clone, err := mtls.Base(base)
	if err != nil {
		t.Fatal(err)
	}
	bound := mtls.NewTransport(clone, nowhere)
	bound.Present(taken(t, cert))
	return bound
}

func taken(t testing.TB, cert *tls.Certificate) *mtls.Certificate {
	t.Helper()
	taken, err := mtls.New(cert)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

func TestTheSameSignerKeepsItsCalls(t *testing.T) {
	cert := certificate(t, kit.EC(), time.Hour)
	bound := transport(t, new(http.Transport), cert)
	first := bound.Calls()
	if bound.Present(taken(t, cert)); bound.Calls() != first {
		t.Error("the same signer has other calls")
	}
	cert.PrivateKey = &kit.Signer{Signer: kit.EC()}
	if bound.Present(taken(t, cert)); bound.Calls() == first {
		t.Error("another signer has the same calls")
	}
}

func TestACloneClosesItsIdleConnectionsInTheEnd(t *testing.T) {
	cert := certificate(t, kit.EC(), time.Hour)
	for base, want := range map[time.Duration]time.Duration{0: 90 * time.Second, time.Second: time.Second} {
		bound := transport(t, &http.Transport{IdleConnTimeout: base}, cert)
		if bound.IdleConnTimeout != want {
			t.Errorf("of a base with %s: got %s; want %s", base, bound.IdleConnTimeout, want)
		}
	}
}

func TestACloneChecksTheHealthOfItsConnections(t *testing.T) {
	cert := certificate(t, kit.EC(), time.Hour)
	for set, want := range map[time.Duration]time.Duration{0: 15 * time.Second, time.Minute: time.Minute} {
		base := &http.Transport{HTTP2: &http.HTTP2Config{SendPingTimeout: set, MaxReadFrameSize: 1 << 20}}
		if got := transport(t, base, cert).HTTP2; got.SendPingTimeout != want || got.MaxReadFrameSize != 1<<20 {
			t.Errorf("of a base with %s: got %+v; want %s, and all else as it was", set, got, want)
		}
		if base.HTTP2.SendPingTimeout != set {
			t.Error("the base was changed")
		}
	}
	if got := transport(t, new(http.Transport), cert).HTTP2; got.SendPingTimeout != 15*time.Second {
		t.Errorf("of a base without HTTP2: got %+v; want 15 s", got)
	}
}
