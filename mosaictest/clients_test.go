package mosaictest_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestASecretIsRotated(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		first, second, third := s.Config().ClientSecret, "the second secret", "the third secret"
		active := func(want ...string) {
			t.Helper()
			for _, secret := range []string{first, second, third} {
				status, code := 401, "invalid_client"
				for _, w := range want {
					if secret == w {
						status, code = 200, ""
					}
				}
				post(t, s, "client_secret", secret).refuses(t, status, code)
			}
			if got := s.Config().ClientSecret; got != want[0] {
				t.Errorf("Config's secret is %q; want %q", got, want[0])
			}
		}
		active(first)
		tok := token(t, s, "")
		s.AddSecret(second)
		active(second, first)
		s.RevokeSecret(second)
		active(first)
		s.AddSecret(second)
		s.RevokeSecret(first)
		active(second)
		s.AddSecret(third)
		s.SetSecret(first)
		active(first)
		call(t, s, "/cis/x", tok).wants(t, 200)
	})
}

func TestEachClientHasItsOwnSecret(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		s.RegisterSecret("other", "a secret")
		s.RegisterSecret("tenant", "another secret")
		s.RegisterSecret("tenant", "the tenant's secret") // anew
		for _, tt := range []struct {
			client, secret string
			status         int
		}{
			{"tenant", "the tenant's secret", 200},
			{"other", "a secret", 200},
			{"tenant", "another secret", 401},
			{"tenant", "a secret", 401},
			{"tenant", s.Config().ClientSecret, 401},
			{s.Config().ClientID, "a secret", 401},
		} {
			got := post(t, s, "client_id", tt.client, "client_secret", tt.secret)
			got.refuses(t, tt.status, map[int]string{401: "invalid_client"}[tt.status])
			if tt.status == 200 && claims(t, accessToken(t, got))["client_id"] != tt.client {
				t.Errorf("%s's token is another client's", tt.client)
			}
		}
		s.RegisterKey(s.Config().ClientID, jwks(t, nil))
		if got := s.Config().ClientSecret; got != "" {
			t.Errorf("Config's secret is %q after its client was registered with a key", got)
		}
	})
}

// presenting returns a client that presents cert, whatever CAs the server names.
func presenting(t testing.TB, s *mosaictest.Server, cert *tls.Certificate, http2 bool) *http.Client {
	tr := s.Client().Transport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	tr.Protocols, tr.TLSNextProto, tr.TLSClientConfig.NextProtos = new(http.Protocols), nil, nil
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return &http.Client{Transport: tr}
}

func TestClientCertificates(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		certificate := func(name string, parent *tls.Certificate, change ...func(*x509.Certificate)) *tls.Certificate {
			return kit.Certificate(t, name, kit.EC(), parent, change...)
		}
		selfSigned, stranger := certificate("self", nil), certificate("self", nil)
		root, otherRoot := certificate("root CA", nil), kit.Certificate(t, "root CA", kit.NewEC(t), nil)
		signed := certificate("signed", certificate("intermediate CA", root))
		without := *signed
		without.Certificate = signed.Certificate[:1]
		pool, otherPool := x509.NewCertPool(), x509.NewCertPool()
		pool.AddCert(root.Leaf)
		otherPool.AddCert(certificate("another root CA", nil).Leaf)
		s.RegisterCertificate("self", selfSigned.Leaf)
		s.RegisterCertificate("stranger", stranger.Leaf)
		s.RegisterCA("signed", pool, "CN=signed")
		s.RegisterCA("elsewhere", otherPool, "CN=signed")

		for _, tt := range []struct {
			name, client string
			cert         *tls.Certificate
			more         url.Values
			status       int
		}{
			{"self-signed", "self", selfSigned, nil, 200},
			{"self-signed, none presented", "self", &tls.Certificate{}, nil, 401},
			{"self-signed, of another client", "self", stranger, nil, 401},
			{"self-signed, client unknown", "mars", selfSigned, nil, 401},
			{"self-signed, with a secret", "self", selfSigned, url.Values{"client_secret": {"x"}}, 401},
			{"self-signed, with an assertion", "self", selfSigned, url.Values{"client_assertion": {"x"}}, 401},
			{"a client with a secret, by certificate alone", s.Config().ClientID, selfSigned, nil, 401},
			{"signed", "signed", signed, nil, 200},
			{"signed, by the CA itself", "signed", certificate("signed", root), nil, 200},
			{"signed, none presented", "signed", &tls.Certificate{}, nil, 401},
			{"signed, without its intermediate", "signed", &without, nil, 401},
			{"signed, by a CA of the same name", "signed", certificate("signed", otherRoot), nil, 401},
			{"signed, for another client's CA", "elsewhere", signed, nil, 401},
			{"signed, another subject", "signed", certificate("other", root), nil, 401},
			{"signed, expired", "signed", certificate("signed", root, kit.Lifetime(-time.Minute)), nil, 401},
			{"signed, for servers", "signed", certificate("signed", root, func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageServerAuth }), nil, 401},
			{"self-signed of the right subject", "signed", certificate("signed", nil), nil, 401},
		} {
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {tt.client}}
			maps.Copy(form, tt.more)
			t.Log(tt.name)
			do(t, presenting(t, s, tt.cert, false), tokenRequest(s, "/cis/oidc/token", form)).
				refuses(t, tt.status, map[int]string{401: "invalid_client"}[tt.status])
		}

		var named [][]byte
		client := presenting(t, s, nil, false)
		client.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			named = info.AcceptableCAs
			return &tls.Certificate{}, nil
		}
		do(t, client, apiRequest(s, "/cis/x", ""))
		if len(named) != 2 || !bytes.Equal(named[0], root.Leaf.RawSubject) {
			t.Errorf("the handshake names %d CAs; want the two registered", len(named))
		}
	})
}

func TestOnlyTheIssuerIsAcceptedOnRequest(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		conf := kit.KeyClient(t, s, kit.EC())
		issuer := *conf
		issuer.AssertionAudience = claims(t, token(t, s, ""))["iss"].(string)
		for _, refused := range []bool{false, true} {
			if _, err := conf.Token(s.Context(t.Context())); (err != nil) != refused {
				t.Errorf("aud the token endpoint: got error %v; want a refusal: %t", err, refused)
			}
			if _, err := issuer.Token(s.Context(t.Context())); err != nil {
				t.Errorf("aud the issuer: got error %v", err)
			}
			s.AcceptIssuerOnly()
		}
		s.ServeAs("api.eu.transmitsecurity.io")
		issuer.Endpoint = mosaic.EU
		if _, err := issuer.Token(s.Context(t.Context())); err != nil {
			t.Errorf("aud the issuer, under another name: got error %v", err)
		}
	})
}

// jwks returns the JWK Set of a P-256 key, changed.
func jwks(t testing.TB, change func(key map[string]any)) []byte {
	t.Helper()
	return jwksOf(t, kit.EC(), "ES256", func(set map[string][]map[string]any) {
		if change != nil {
			change(set["keys"][0])
		}
	})
}

func jwksOf(t testing.TB, key crypto.Signer, alg string, change func(set map[string][]map[string]any)) []byte {
	t.Helper()
	conf := &mosaic.Config{ClientID: "c", Endpoint: mosaic.EU, PrivateKey: key, KeyID: alg, SigningAlgorithm: alg}
	set := map[string][]map[string]any{"keys": kit.JWKs(t, kit.JWKS(t, conf))}
	if change != nil {
		change(set)
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPrivateKeyJWT(t *testing.T) {
	longSalt := &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA,
		Options:          &rsa.PSSOptions{SaltLength: 64},
	}

	// An assertion as it should be, to be spoilt by each case.
	type assertion struct {
		client string
		method jwt.SigningMethod
		key    any
		header map[string]any
		claims jwt.MapClaims
		form   url.Values
		skew   time.Duration
		path   string
	}
	claim := func(name string, v any) func(*assertion) {
		return func(a *assertion) {
			if a.claims[name] = v; v == nil {
				delete(a.claims, name)
			}
		}
	}
	after := func(name string, d time.Duration) func(*assertion) {
		return func(a *assertion) { a.claims[name] = time.Now().Add(d).Unix() }
	}
	by := func(client string, m jwt.SigningMethod, key any) func(*assertion) {
		return func(a *assertion) {
			a.client, a.method, a.key = client, m, key
			a.header["kid"] = client
			a.claims["iss"], a.claims["sub"] = client, client
		}
	}
	field := func(name string, v ...string) func(*assertion) { return func(a *assertion) { a.form[name] = v } }
	skew := func(d time.Duration) func(*assertion) { return func(a *assertion) { a.skew = d } }
	const base = "https://example.com"

	for _, tt := range []struct {
		name   string
		spoil  func(*assertion)
		status int
	}{
		{"ES256", func(*assertion) {}, 200},
		{"RS256", by("RS256", jwt.SigningMethodRS256, kit.RSA()), 200},
		{"PS256", by("PS256", jwt.SigningMethodPS256, kit.RSA()), 200},
		{"EdDSA", by("EdDSA", jwt.SigningMethodEdDSA, kit.Ed25519()), 200},
		{"no assertion type", field("client_assertion_type"), 401},
		{"another assertion type", field("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"), 401},
		{"no assertion", field("client_assertion"), 401},
		{"garbage for an assertion", field("client_assertion", "a.b.c"), 401},
		{"a secret instead", func(a *assertion) { a.form = url.Values{"client_assertion": nil, "client_secret": {"x"}} }, 401},
		{"no client_id", field("client_id"), 401},
		{"for a client with a secret", func(a *assertion) {
			by("secret", a.method, a.key)(a)
			a.form["client_id"] = []string{"pVEZaxjhbdshcudsLe"}
		}, 401},
		{"another client's assertion", field("client_id", "EdDSA"), 401},
		{"unknown kid", func(a *assertion) { a.header["kid"] = "mars" }, 401},
		{"no kid", func(a *assertion) { delete(a.header, "kid") }, 401},
		{"another key", func(a *assertion) { a.key = kit.NewEC(t) }, 401},
		{"another algorithm, same key", by("RS256", jwt.SigningMethodPS256, kit.RSA()), 401},
		{"another algorithm, RFC's", by("PS256", jwt.SigningMethodRS256, kit.RSA()), 401},
		{"PS256 with another salt", by("PS256", longSalt, kit.RSA()), 401},
		{"no signature", func(a *assertion) { a.method, a.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType }, 401},
		{"HMAC", func(a *assertion) { a.method, a.key = jwt.SigningMethodHS256, []byte("x") }, 401},
		{"another iss", claim("iss", "mars"), 401},
		{"no iss", claim("iss", nil), 401},
		{"another sub", claim("sub", "mars"), 401},
		{"no sub", claim("sub", nil), 401},
		{"aud the issuer", claim("aud", base), 200},
		{"aud the issuer with a slash", claim("aud", base+"/"), 401},
		{"aud an array", claim("aud", []string{base + "/oidc/token"}), 401},
		{"aud another token endpoint", claim("aud", "https://api.transmitsecurity.io/oidc/token"), 401},
		{"aud of the other path", claim("aud", base+"/cis/oidc/token"), 401},
		{"aud of the other path, posted there", func(a *assertion) { a.path, a.claims["aud"] = "/cis/oidc/token", base+"/cis/oidc/token" }, 200},
		{"no aud", claim("aud", nil), 401},
		{"no exp", claim("exp", nil), 401},
		{"exp now", after("exp", 0), 401},
		{"exp in a second", after("exp", time.Second), 200},
		{"five minutes", after("exp", 290*time.Second), 200},
		{"five minutes and a second", after("exp", 291*time.Second), 401},
		{"no iat", claim("iat", nil), 401},
		{"iat now", after("iat", 0), 200},
		{"iat in a second", after("iat", time.Second), 401},
		{"nbf in a second", after("nbf", time.Second), 401},
		{"no jti", claim("jti", nil), 401},
		{"empty jti", claim("jti", ""), 401},
		{"server's clock 11s behind", skew(-11 * time.Second), 401},
		{"server's clock 60s ahead", skew(60 * time.Second), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
				for alg, key := range map[string]crypto.Signer{"RS256": kit.RSA(), "PS256": kit.RSA(), "ES256": kit.EC(), "EdDSA": kit.Ed25519()} {
					s.RegisterKey(alg, jwksOf(t, key, alg, nil))
				}
				a := assertion{
					header: make(map[string]any),
					claims: jwt.MapClaims{"aud": base + "/oidc/token", "jti": rand.Text()},
					form:   make(url.Values),
					path:   "/oidc/token",
				}
				by("ES256", jwt.SigningMethodES256, kit.EC())(&a)
				after("iat", -10*time.Second)(&a)
				after("exp", time.Minute)(&a)
				tt.spoil(&a)
				s.SetSkew(a.skew)

				unsigned := jwt.NewWithClaims(a.method, a.claims)
				maps.Copy(unsigned.Header, a.header)
				signed, err := unsigned.SignedString(a.key)
				if err != nil {
					t.Fatal(err)
				}
				form := url.Values{
					"grant_type":            {"client_credentials"},
					"client_id":             {a.client},
					"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
					"client_assertion":      {signed},
				}
				maps.Copy(form, a.form)
				send := func() reply { return do(t, s.Client(), tokenRequest(s, a.path, form)) }
				s.FailNext(1, mosaictest.Fault{Status: 503})
				send().wants(t, 503) // does not use the assertion up
				got := send()
				got.refuses(t, tt.status, map[int]string{401: "invalid_client"}[tt.status])
				if tt.status == 200 {
					if sub := claims(t, accessToken(t, got))["sub"]; sub != a.client {
						t.Errorf("sub: got %v; want %s", sub, a.client)
					}
					send().refuses(t, 401, "invalid_client") // replayed
				}
			})
		})
	}
}
