package grant_test

import (
	"context"
	"crypto"
	"log/slog"
	"strings"
	"testing"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/grant"
	"example.com/mosaic/internal/mtls"
)

// plainHTTP makes a client take the replies of wire: certificates are not presented, but all else is
// as with TLS.
func plainHTTP(c *grant.Client) {
	c.TokenURL, c.MTLSURL = "http://localhost/oidc/token", "http://localhost/cis/oidc/token"
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

func TestOtherCredentialsAreLoggedOnceATokenWasObtained(t *testing.T) {
	cert := certificate(t, time.Hour)
	var log kit.Log
	var creds *grant.Credentials
	stub := new(kit.Stub)
	c := newClient(t, wire(kit.TokenReply("opaque", usable)), plainHTTP, func(c *grant.Client) {
		c.Fixed, c.Get = nil, func(context.Context) (*grant.Credentials, error) { return creds, nil }
		c.Log = log.Logger(slog.LevelInfo)
	})
	for _, step := range []struct {
		creds  *grant.Credentials
		broken bool
		want   string
	}{
		{&grant.Credentials{Secret: secret}, false, ""},
		{&grant.Credentials{Secret: secret}, false, ""},
		{&grant.Credentials{Secret: "another-secret"}, true, ""},
		{&grant.Credentials{Secret: "another-secret"}, false, `msg="mosaic: credentials changed" method=client_secret_post` + "\n"},
		{&grant.Credentials{Key: newKey(t, kit.EC(), "k1")}, false, "method=private_key_jwt kid=k1\n"},
		{&grant.Credentials{Key: newKey(t, kit.EC(), "k1")}, false, ""},
		{&grant.Credentials{Key: newKey(t, kit.NewEC(t), "k1")}, false, "method=private_key_jwt kid=k1\n"},
		{&grant.Credentials{Key: newKey(t, kit.EC(), "k1"), Certificate: cert}, false, "method=private_key_jwt kid=k1 x5t=" + cert.Thumbprint + "\n"},
		{&grant.Credentials{Certificate: cert}, false, "method=tls_client_auth x5t=" + cert.Thumbprint + "\n"},
	} {
		creds, c.HTTP.Transport = step.creds, wire(kit.TokenReply("opaque", usable))
		if step.broken {
			c.HTTP.Transport = stub
		}
		if _, err := c.Token(t.Context(), "", 1); (err != nil) != step.broken {
			t.Fatalf("got error %v", err)
		}
		if got := log.Take(); !strings.HasSuffix(got, step.want) || step.want == "" && got != "" {
			t.Errorf("got %q; want it to end in %q", got, step.want)
		}
	}
}

func TestATokenEndsWithItsCertificate(t *testing.T) {
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
		{"over", "token", time.Hour, 2 * time.Hour, 0, "it would end with Certificate, at 2000-01-01T01:00:00Z", true},
		{"over, and no reply", "", time.Hour, 2 * time.Hour, 0, "Certificate has expired: its NotAfter is 2000-01-01T01:00:00Z", false},
		{"no reply", "", time.Hour, 0, 0, "the server may have refused Certificate", false},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			reply := strings.Replace(tt.reply, "token", kit.TokenReply("opaque", `"expires_in":3600`), 1)
			c := newClient(t, wire(reply), plainHTTP, func(c *grant.Client) { c.Fixed = &grant.Credentials{Certificate: certificate(t, tt.life)} })
			defer c.CloseIdleConnections()
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
		c := newClient(t, wire(kit.TokenReply(kit.JWT("%s", tt.payload), usable)), plainHTTP, func(c *grant.Client) {
			c.Fixed = &grant.Credentials{Secret: secret, Certificate: tt.cert}
		})
		if _, failure := request(t, t.Context(), c); (failure == nil) != tt.taken || failure != nil && (!failure.Refused() || !strings.Contains(failure.Error(), "different certificate")) {
			t.Errorf("%s: got error %v; want it taken: %t", tt.payload, failure, tt.taken)
		}
	}
}
