package grant_test

import (
	"context"
	"crypto"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/grant"
	"example.com/mosaic/internal/identity"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/refresh"
)

// newPlainClient returns a client that has creds and gets reply over plain HTTP. It presents no
// certificate; all else is as with TLS.
func newPlainClient(t testing.TB, reply string, creds *identity.Credentials) *grant.Client {
	t.Helper()
	c := newClientOf(t, kit.Wire(reply), creds)
	c.Config.TokenURL, c.MTLSURL = "http://localhost/oidc/token", "http://localhost/cis/oidc/token"
	return c
}

func certificate(t testing.TB, life time.Duration) *mtls.Certificate {
	t.Helper()
	cert, err := mtls.New(kit.Certificate(t, "acme", kit.EC(), nil, kit.Lifetime(life)))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t testing.TB, signer crypto.Signer, id string) *assertion.Key {
	t.Helper()
	key, err := assertion.NewKey(signer, signer.Public(), "", id)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestATokenEndsWithItsCertificate(t *testing.T) {
	kit.NoFIPS(t)
	for _, tt := range []struct {
		name, reply string
		life        time.Duration // of the certificate
		before      time.Duration // the request
		want        time.Duration // the token's life, which is an hour; 0: an error
		text        string        // of the error
		refused     bool
	}{
		{"a day", "token", 24 * time.Hour, 0, time.Hour, "", false},
		{"less than the token", "token", 20 * time.Minute, 0, 20 * time.Minute, "", false},
		{"a second", "token", time.Hour, time.Hour - time.Second, time.Second, "", false},
		{"less than a second", "token", time.Hour, time.Hour - time.Second + 1, 0, "it would end with Certificate, at 2000-01-01T01:00:00Z", true},
		{"over", "token", time.Hour, 2 * time.Hour, 0, "Certificate has expired: its NotAfter is 2000-01-01T01:00:00Z", true},
		{"over, and no reply", "", time.Hour, 2 * time.Hour, 0, "Certificate has expired: its NotAfter is 2000-01-01T01:00:00Z", false},
		{"over, and refused", kit.Reply("400 Bad Request", "Content-Type: text/html\r\nServer: nginx", "<html>"), time.Hour, 2 * time.Hour, 0, ": Certificate has expired: its NotAfter is 2000-01-01T01:00:00Z", true},
		{"no reply", "", time.Hour, 0, 0, "the server may have refused Certificate", false},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			reply := strings.Replace(tt.reply, "token", kit.TokenReply("opaque", `"expires_in":3600`), 1)
			c := newPlainClient(t, reply, &identity.Credentials{Certificate: certificate(t, tt.life)})
			defer c.Identity.CloseIdleConnections()
			time.Sleep(tt.before)
			tok, failure := request(t, t.Context(), c)
			switch {
			case tt.want == 0 && (failure == nil || failure.Refused() != tt.refused || !strings.HasSuffix(failure.Error(), tt.text)):
				t.Errorf("got %v; want %q, refused: %t", failure, tt.text, tt.refused)
			case tt.want != 0 && failure != nil:
				t.Error(failure)
			case tt.want != 0 && (time.Until(tok.Expiry) != tt.want || tok.Lifetime != tt.want || tok.Via == nil):
				t.Errorf("got a token for %s, life %s; want %s, over connections of its own", time.Until(tok.Expiry), tok.Lifetime, tt.want)
			}
		})
	}
}

func TestACertificateIsNotValidYetAfterTheClockIsSetBack(t *testing.T) {
	kit.NoFIPS(t)
	for _, reply := range []string{kit.TokenReply("opaque", `"expires_in":3600`), ""} {
		kit.Run(t, "", func(t *testing.T) {
			cert := certificate(t, 24*time.Hour)
			cert.Leaf.NotBefore = time.Now().Add(time.Hour) // a bubble's clock cannot be set back
			c := newPlainClient(t, reply, &identity.Credentials{Certificate: cert})
			defer c.Identity.CloseIdleConnections()
			const want = ": Certificate is not valid yet: its NotBefore is 2000-01-01T01:00:00Z"
			if _, failure := request(t, t.Context(), c); failure == nil || !strings.HasSuffix(failure.Error(), want) {
				t.Errorf("got %v; want %q", failure, want)
			}
		})
	}
}

func TestATokenBoundToAnotherCertificateIsRefused(t *testing.T) {
	cert := certificate(t, time.Hour)
	const other = `{"cnf":{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89"}}`
	for _, tt := range []struct {
		payload string
		cert    *mtls.Certificate
		taken   bool
	}{
		{`{"cnf":{"x5t#S256":"` + cert.Thumbprint + `"}}`, cert, true},
		{other, cert, false},
		{other, nil, true}, // for others to judge
		{`{"cnf":{"jkt":"another method's"}}`, cert, true},
		{`{"cnf":7}`, cert, true},
		{`{}`, cert, true},
	} {
		c := newPlainClient(t, kit.TokenReply(kit.JWT("%s", tt.payload), usable), &identity.Credentials{Secret: secret, Certificate: tt.cert})
		if _, failure := request(t, t.Context(), c); (failure == nil) != tt.taken || failure != nil && (!failure.Refused() || !strings.Contains(failure.Error(), "different certificate")) {
			t.Errorf("%s: got error %v; want it taken: %t", tt.payload, failure, tt.taken)
		}
	}
}

func TestAWaitForAFreeConnectionIsNamedWithACertificateToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		rt := &http.Transport{MaxConnsPerHost: 1, DialContext: func(context.Context, string, string) (net.Conn, error) {
			<-over
			return nil, net.ErrClosed
		}}
		c := newClientOf(t, rt, &identity.Credentials{Certificate: certificate(t, time.Hour)})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.MTLSURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		go c.Identity.Transport().RoundTrip(req) // takes the only connection
		synctest.Wait()
		if failure := fail(t, t.Context(), c); !strings.Contains(failure.Error(), "no free connection in time") {
			t.Errorf("got %v; want it to name the wait for a free connection", failure)
		}
	})
}

func TestACallThatIsCanceledAfterATimeoutHasNotTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClientOf(t, kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), &identity.Credentials{Secret: "a secret of the test"})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second+100*time.Millisecond, cancel) // in the pause after the first attempt
		_, err := c.Token(ctx, "", refresh.Attempts)
		if timeout := net.Error(nil); !errors.Is(err, context.Canceled) || !errors.As(err, &timeout) || timeout.Timeout() {
			t.Errorf("got %v; want the end of the context, without a timeout", err)
		}
	})
}
