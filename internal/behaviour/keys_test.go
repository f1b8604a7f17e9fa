package behaviour_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// In the set a certificate's key may be of a kind without an algorithm.
func TestAPrivateKeyAuthenticatesByTheOutputOfJWKS(t *testing.T) {
	beside := kit.Certificate(t, "acme", kit.P384(), nil)
	for _, alg := range []struct {
		name string
		key  func() crypto.Signer
	}{{"RS256", kit.RSA}, {"PS256", kit.RSA}, {"ES256", kit.EC}, {"EdDSA", kit.Ed25519}} {
		for _, key := range []crypto.Signer{alg.key(), &kit.Signer{Signer: alg.key()}} {
			for kid, cert := range map[string]*tls.Certificate{"": nil, "acme-2026": beside} {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					conf := kit.KeyClient(t, srv, key, func(c *mosaic.Config) { c.SigningAlgorithm, c.KeyID, c.Certificate = alg.name, kid, cert })
					if _, err := conf.Token(srv.Context(t.Context())); err != nil {
						t.Fatalf("%s by a %T: got %v; want a token", alg.name, key, err)
					}
					header, _ := kit.Assertion(t, srv.TokenRequests()[0])
					want := kit.JWKs(t, kit.JWKS(t, conf))[0]["kid"]
					if header["alg"] != alg.name || header["kid"] != want || kid != "" && want != kid {
						t.Errorf("%s by a %T: got alg and kid %v, %v; want the kid of the JWK Set, %v", alg.name, key, header["alg"], header["kid"], want)
					}
				})
			}
		}
	}
}

func TestTheFormOfATokenRequest(t *testing.T) {
	const (
		byKey = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&"
		plain = "client_id=acme&grant_type=client_credentials"
	)
	cert := kit.Certificate(t, "acme", kit.EC(), nil)
	for _, tt := range []struct {
		name       string
		change     func(*mosaic.Config)
		path, form string // without the assertion
	}{
		{"a key", func(c *mosaic.Config) { c.PrivateKey = kit.EC() }, "/oidc/token", byKey + plain},
		{"a key, with everything that can be requested", func(c *mosaic.Config) {
			c.PrivateKey, c.Resource, c.Scopes = kit.EC(), mosaic.FraudPrevention, []string{"openid", "email"}
			c.EndpointParams = url.Values{"tenant": {"a b"}}
		}, "/oidc/token", byKey + plain + "&resource=https%3A%2F%2Frisk.identity.security&scope=openid+email&tenant=a+b"},
		{"a key beside a certificate", func(c *mosaic.Config) { c.PrivateKey, c.Certificate = kit.EC(), cert }, "/oidc/token", byKey + plain},
		{"a certificate", func(c *mosaic.Config) { c.Certificate = cert }, "/cis/oidc/token", plain},
		{"a certificate, with a resource", func(c *mosaic.Config) { c.Certificate, c.Resource = cert, mosaic.FraudPrevention },
			"/cis/oidc/token", plain + "&resource=https%3A%2F%2Frisk.identity.security"},
		{"a certificate beside a secret", func(c *mosaic.Config) { c.ClientSecret, c.Certificate = "s", cert },
			"/oidc/token", "client_id=acme&client_secret=s&grant_type=client_credentials"},
		{"the HTTP client's own certificate", func(c *mosaic.Config) { c.TLSClientAuth = true }, "/cis/oidc/token", plain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := &mosaic.Config{ClientID: "acme", Endpoint: srv.Endpoint()}
				tt.change(conf)
				_, _ = conf.Token(srv.Context(t.Context())) // it is not registered
				req := srv.TokenRequests()[0]
				form := maps.Clone(req.Form)
				if got := form.Has("client_assertion"); got != (conf.PrivateKey != nil) {
					t.Errorf("there is an assertion: %t", got)
				}
				form.Del("client_assertion")
				if got := form.Encode(); req.RequestURI != tt.path || got != tt.form {
					t.Errorf("got %s to %s; want %s to %s", got, req.RequestURI, tt.form, tt.path)
				}
				if req.Header["Authorization"] != nil {
					t.Error("there is an Authorization header; want credentials in the form only")
				}
			})
		})
	}
}

func TestTheAudienceOfAnAssertion(t *testing.T) {
	for set, want := range map[string]string{
		"":                          "https://example.com/oidc/token", // the URL posted to
		"https://example.com":       "https://example.com",            // an issuer
		"https://elsewhere.example": "https://elsewhere.example",      // refused by the stand-in
	} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			conf := kit.KeyClient(t, srv, kit.EC(), func(c *mosaic.Config) { c.AssertionAudience = set })
			if _, err := conf.Token(srv.Context(t.Context())); (err == nil) != strings.HasPrefix(want, "https://example.com") {
				t.Errorf("%q: got %v", set, err)
			}
			_, claims := kit.Assertion(t, srv.TokenRequests()[0])
			if claims["aud"] != want || claims["iss"] != "acme" || claims["sub"] != "acme" {
				t.Errorf("got aud, iss and sub %v, %v, %v; want the string %q and the client ID", claims["aud"], claims["iss"], claims["sub"], want)
			}
		})
	}
}

func TestEachAttemptHasAnAssertionOfItsOwn(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf := kit.KeyClient(t, srv, kit.EC())
		lost := false
		ctx := kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			res, err := srv.Client().Transport.RoundTrip(req)
			if !lost && err == nil && res.StatusCode == http.StatusOK { // the server has used the assertion up
				lost = true
				res.Body.Close()
				return nil, errors.New("the connection was reset")
			}
			return res, err
		}))
		srv.FailNext(1, mosaictest.Fault{})
		if _, err := conf.Token(ctx); err != nil {
			t.Fatalf("got %v; want a token at the third attempt", err)
		}
		seen := make(map[any]bool)
		for _, req := range srv.TokenRequests() {
			_, claims := kit.Assertion(t, req)
			seen[claims["jti"]] = true
		}
		if got := kit.Statuses(srv.TokenRequests()); !slices.Equal(got, []int{0, 200, 200}) || len(seen) != 3 {
			t.Errorf("got answers %v to %d different assertions; want none, 200, 200 to 3", got, len(seen))
		}
	})
}

func TestASignerThatFails(t *testing.T) {
	for _, tt := range failures {
		for _, what := range []string{"assertion", "sign handshake"} {
			t.Run(tt.name+", "+what, func(t *testing.T) {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					var broken atomic.Bool
					var log kit.Log
					signer := &kit.Signer{Before: func() error {
						if broken.Load() {
							return tt.fail()
						}
						return nil
					}}
					var conf *mosaic.Config
					if what == "assertion" {
						signer.Signer = kit.EC()
						conf = kit.KeyClient(t, srv, signer)
					} else {
						conf = kit.CertificateClient(t, srv, "acme")
						signer.Signer = conf.Certificate.PrivateKey.(crypto.Signer)
						conf.Certificate.PrivateKey = signer
					}
					conf.Logger = log.Logger(slog.LevelInfo)
					base := srv.Client().Transport.(*http.Transport).Clone()
					base.MaxConnsPerHost = 1
					ctx := kit.Over(t.Context(), base)
					for who, token := range map[string]func() (*oauth2.Token, error){
						"Config":      func() (*oauth2.Token, error) { return conf.Token(ctx) },
						"TokenSource": conf.TokenSource(ctx).Token,
					} {
						srv.ForgetRequests()
						broken.Store(true)
						begun := time.Now()
						_, err := token()
						wantFailure(t, who, err, what, tt.word)
						if took := time.Since(begun); took > 30*time.Second {
							t.Errorf("%s: it took %s; want 30 seconds at most", who, took)
						}
						if n := len(srv.TokenRequests()); n != 0 {
							t.Errorf("%s: got %d requests; want none without a signature", who, n)
						}
						synctest.Wait()
						if text := log.Take(); strings.Contains(text, "keys_test.go") != tt.logged || strings.Contains(text, "sesame") {
							t.Errorf("%s: want a stack in the log: %t, without the panic's value:\n%s", who, tt.logged, text)
						}
						broken.Store(false)
						if _, err := token(); err != nil {
							t.Errorf("%s, once it signs again: got %v; want a token", who, err)
						}
						base.CloseIdleConnections()
					}
					time.Sleep(hang)
				})
			})
		}
	}
}

// net/http calls Public in a goroutine of its own, where a panic would end the process.
func TestPublicIsCalledOnceForEachSource(t *testing.T) {
	for _, later := range []func(){func() { panic("open sesame") }, func() { time.Sleep(hang) }} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			srv.BindTokens(true)
			conf := kit.KeyClient(t, srv, kit.EC())
			key, certKey := &publicOnce{Signer: kit.EC()}, &publicOnce{Signer: kit.Ed25519()}
			conf.Certificate = kit.Certificate(t, "acme", kit.Ed25519(), nil)
			conf.PrivateKey, conf.Certificate.PrivateKey = key, certKey
			client := conf.Client(srv.Context(t.Context()))
			if key.calls.Load() != 1 || certKey.calls.Load() != 1 {
				t.Errorf("Public was called %d and %d times; want once", key.calls.Load(), certKey.calls.Load())
			}
			key.later, certKey.later = later, later
			kit.Every(10*time.Minute, 3*time.Hour, func() {
				if err := kit.Fetch(client, srv.Endpoint().URL("/cis/x"), http.StatusOK); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A publicOnce is a signer. After a while its Public misbehaves.
type publicOnce struct {
	crypto.Signer
	calls atomic.Int32
	later func()
}

func (p *publicOnce) Public() crypto.PublicKey {
	if p.calls.Add(1); p.later != nil {
		p.later()
	}
	return p.Signer.Public()
}

// The same signer, returned again by GetCredentials, is the same.
func TestASignerThatHangsCostsFourGoroutinesAndEndsNothing(t *testing.T) {
	for _, returned := range []bool{false, true} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			var hangs atomic.Bool
			var calls atomic.Int32
			mended := make(chan struct{})
			conf := kit.KeyClient(t, srv, &kit.Signer{Signer: kit.EC(), Before: func() error {
				if calls.Add(1); hangs.Load() {
					<-mended
				}
				return nil
			}})
			if returned {
				conf = newVault(mosaic.Credentials{PrivateKey: conf.PrivateKey}).config(srv)
			}
			hangs.Store(true)
			src := conf.TokenSource(srv.Context(t.Context()))
			before := kit.Goroutines(t)
			for range 100 {
				if _, err := src.Token(); err == nil {
					t.Fatal("got a token without a signature")
				}
				time.Sleep(3 * time.Second)
			}
			if got := kit.Goroutines(t) - before; got != 4 || calls.Load() != 4 {
				t.Errorf("%d goroutines are left after %d calls; want four", got, calls.Load())
			}
			hangs.Store(false)
			close(mended)
			time.Sleep(3 * time.Second)
			if _, err := src.Token(); err != nil {
				t.Errorf("once it signs again: got %v; want a token", err)
			}
		})
	}
}

func TestJWKSHasThePublicKeysOfKeyAndCertificate(t *testing.T) {
	certKey := kit.NewEC(t)
	cert := kit.Certificate(t, "acme", certKey, kit.Certificate(t, "root CA", kit.EC(), nil))
	key := func(key crypto.Signer, kid, alg string) mosaic.Credentials {
		return mosaic.Credentials{PrivateKey: key, KeyID: kid, SigningAlgorithm: alg}
	}
	for _, tt := range []struct {
		name string
		all  []mosaic.Credentials // the Config's, and the next
		want []string             // of each JWK: kty, alg, kid if given, and the number of certificates
		err  string               // a word
	}{
		{"a key", []mosaic.Credentials{key(kit.RSA(), "", "")}, []string{"RSA RS256 0"}, ""},
		{"a key with a KeyID and an algorithm", []mosaic.Credentials{key(kit.RSA(), "k", "PS256")}, []string{"RSA PS256 k 0"}, ""},
		{"a certificate", []mosaic.Credentials{{Certificate: cert}}, []string{"EC ES256 2"}, ""},
		{"a certificate on P-384", []mosaic.Credentials{{Certificate: kit.Certificate(t, "acme", kit.P384(), nil)}}, []string{"EC <nil> 1"}, ""},
		{"a secret and a certificate", []mosaic.Credentials{{ClientSecret: "s", Certificate: cert}}, []string{"EC ES256 2"}, ""},
		{"a key and a certificate", []mosaic.Credentials{{PrivateKey: kit.Ed25519(), KeyID: "k", Certificate: cert}}, []string{"OKP EdDSA k 0", "EC ES256 2"}, ""},
		{"a certificate of the key itself", []mosaic.Credentials{{PrivateKey: &kit.Signer{Signer: certKey}, KeyID: "k", Certificate: cert}}, []string{"EC ES256 k 2"}, ""},
		{"a rotation", []mosaic.Credentials{key(kit.Ed25519(), "", ""), key(kit.EC(), "", ""), {Certificate: cert}}, []string{"OKP EdDSA 0", "EC ES256 0", "EC ES256 2"}, ""},
		{"the same key twice", []mosaic.Credentials{key(kit.EC(), "k", ""), key(&kit.Signer{Signer: kit.EC()}, "k", "")}, []string{"EC ES256 k 0"}, ""},
		{"the same key with a certificate", []mosaic.Credentials{key(certKey, "k", ""), {PrivateKey: certKey, KeyID: "k", Certificate: cert}}, []string{"EC ES256 k 0", "EC ES256 k 2"}, ""},
		{"a secret", []mosaic.Credentials{{ClientSecret: "s"}}, nil, "a secret has no public key"},
		{"two keys of one kid", []mosaic.Credentials{key(kit.EC(), "k", ""), key(kit.Ed25519(), "k", "")}, nil, "kid"},
		{"a secret in a rotation", []mosaic.Credentials{key(kit.EC(), "", ""), {ClientSecret: "s"}}, nil, "next[0]"},
		{"a key that cannot sign in a rotation", []mosaic.Credentials{key(kit.EC(), "", ""), key(kit.Ed25519(), "", ""), key(kit.P384(), "", "")}, nil, "next[1]"},
		{"nothing", []mosaic.Credentials{{}}, nil, "ClientSecret"},
		{"nothing in a rotation", []mosaic.Credentials{key(kit.EC(), "", ""), {}}, nil, "next[0]: set ClientSecret, PrivateKey or Certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own := tt.all[0]
			conf := &mosaic.Config{ClientID: "acme", Endpoint: mosaic.EU, ClientSecret: own.ClientSecret, PrivateKey: own.PrivateKey,
				KeyID: own.KeyID, SigningAlgorithm: own.SigningAlgorithm, Certificate: own.Certificate}
			set, err := conf.JWKS(tt.all[1:]...)
			if tt.err != "" {
				if err == nil || !kit.IsLine(err) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v; want %s in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, jwk := range kit.JWKs(t, set) {
				if jwk["d"] != nil {
					t.Error("there is a private key")
				}
				kid := ""
				if jwk["kid"] == "k" {
					kid = "k "
				}
				x5c, _ := jwk["x5c"].([]any)
				for i, text := range x5c {
					last := tt.all[len(tt.all)-1]
					if der, err := base64.StdEncoding.DecodeString(text.(string)); err != nil || !bytes.Equal(der, last.Certificate.Certificate[i]) {
						t.Errorf("x5c %d is not the chain's: %v", i, err)
					}
				}
				got = append(got, fmt.Sprintf("%v %v %s%d", jwk["kty"], jwk["alg"], kid, len(x5c)))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}
