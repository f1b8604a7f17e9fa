package behaviour_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// authAlgorithms has a key for each algorithm.
var authAlgorithms = []struct {
	name string
	key  func() crypto.Signer
}{
	{"RS256", authRSA},
	{"PS256", authRSA},
	{"ES256", authEC},
	{"EdDSA", authEd},
}

func TestAPrivateKeyAuthenticatesByWhatJWKSPrints(t *testing.T) {
	for _, alg := range authAlgorithms {
		for _, kid := range []string{"", "acme-2026"} {
			for _, kind := range []string{"plain", "hidden"} {
				t.Run(alg.name+"/"+kind+"/"+kid, func(t *testing.T) {
					authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
						key := alg.key()
						if kind == "hidden" {
							key = authHidden{key}
						}
						conf := authKeyClient(t, srv, key, func(c *mosaic.Config) {
							c.SigningAlgorithm, c.KeyID = alg.name, kid
						})
						if _, err := conf.Token(srv.Context(t.Context())); err != nil {
							t.Fatalf("got %v; want a token", err)
						}
						header, _ := authAssertion(t, srv.TokenRequests()[0])
						if header["alg"] != alg.name {
							t.Errorf("alg: got %v; want %s", header["alg"], alg.name)
						}
						if want := authSet(t, conf)[0]["kid"]; header["kid"] != want || kid != "" && want != kid {
							t.Errorf("kid: got %v; want that of the JWK Set, %v", header["kid"], want)
						}
					})
				})
			}
		}
	}
}

func TestTheFormOfATokenRequest(t *testing.T) {
	const jwtBearer = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&"
	cert := authCert(t, "acme", authEC(), nil)
	for _, tt := range []struct {
		name      string
		change    func(*mosaic.Config)
		path      string
		form      string // without the assertion
		assertion bool
	}{
		{"a key", func(c *mosaic.Config) { c.PrivateKey = authEC() },
			"/oidc/token", jwtBearer + "client_id=acme&grant_type=client_credentials", true},
		{"a key, with all that can be asked for", func(c *mosaic.Config) {
			c.PrivateKey = authEC()
			c.Resource = mosaic.FraudPrevention
			c.Scopes = []string{"openid", "email"}
			c.EndpointParams = url.Values{"tenant": {"a b"}}
		}, "/oidc/token", jwtBearer + "client_id=acme&grant_type=client_credentials&" +
			"resource=https%3A%2F%2Frisk.identity.security&scope=openid+email&tenant=a+b", true},
		{"a key beside a certificate", func(c *mosaic.Config) { c.PrivateKey, c.Certificate = authEC(), cert },
			"/oidc/token", jwtBearer + "client_id=acme&grant_type=client_credentials", true},
		{"a certificate", func(c *mosaic.Config) { c.Certificate = cert },
			"/cis/oidc/token", "client_id=acme&grant_type=client_credentials", false},
		{"a certificate, with all that can be asked for", func(c *mosaic.Config) {
			c.Certificate = cert
			c.Resource = mosaic.FraudPrevention
			c.Scopes = []string{"openid", "email"}
		}, "/cis/oidc/token", "client_id=acme&grant_type=client_credentials&" +
			"resource=https%3A%2F%2Frisk.identity.security&scope=openid+email", false},
		{"a certificate beside a secret", func(c *mosaic.Config) { c.ClientSecret, c.Certificate = "s", cert },
			"/oidc/token", "client_id=acme&client_secret=s&grant_type=client_credentials", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := &mosaic.Config{ClientID: "acme", Endpoint: srv.Endpoint()}
				tt.change(conf)
				_, _ = conf.Token(srv.Context(t.Context())) // it is not registered
				req := srv.TokenRequests()[0]
				form := maps.Clone(req.Form)
				if got := form.Has("client_assertion"); got != tt.assertion {
					t.Errorf("client_assertion: got %v; want %v", got, tt.assertion)
				}
				form.Del("client_assertion")
				if got := form.Encode(); req.RequestURI != tt.path || got != tt.form {
					t.Errorf("got %s to %s; want %s to %s", got, req.RequestURI, tt.form, tt.path)
				}
				if req.Header["Authorization"] != nil {
					t.Error("there is an Authorization header; want credentials in the form alone")
				}
			})
		})
	}
}

func TestTheAudienceOfAnAssertion(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  string // AssertionAudience
		want string
		ok   bool
	}{
		{"the URL that is posted to", "", "https://example.com/oidc/token", true},
		{"the issuer, where it is set", "https://example.com", "https://example.com", true},
		{"another", "https://elsewhere.example", "https://elsewhere.example", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := authKeyClient(t, srv, authEC(), func(c *mosaic.Config) { c.AssertionAudience = tt.set })
				_, err := conf.Token(srv.Context(t.Context()))
				if (err == nil) != tt.ok {
					t.Errorf("got %v; want it accepted: %v", err, tt.ok)
				}
				_, claims := authAssertion(t, srv.TokenRequests()[0])
				if claims["aud"] != tt.want {
					t.Errorf("aud: got %v; want the string %q", claims["aud"], tt.want)
				}
				if claims["iss"] != conf.ClientID || claims["sub"] != conf.ClientID {
					t.Errorf("iss and sub: got %v and %v; want the client ID", claims["iss"], claims["sub"])
				}
			})
		})
	}
}

func TestEachAttemptHasAnAssertionOfItsOwn(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf := authKeyClient(t, srv, authEC())
		lost := false
		ctx := authContext(authRoundTripper(func(req *http.Request) (*http.Response, error) {
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
			t.Fatalf("got %v; want a token on the third attempt", err)
		}

		seen := make(map[any]bool)
		var statuses []int
		for _, req := range srv.TokenRequests() {
			_, claims := authAssertion(t, req)
			seen[claims["jti"]] = true
			statuses = append(statuses, req.Status)
		}
		if want := []int{0, 200, 200}; !slices.Equal(statuses, want) || len(seen) != 3 {
			t.Errorf("got answers %v to %d different assertions; want %v to 3", statuses, len(seen), want)
		}

		// Sent twice, it would have been refused.
		res, err := srv.Client().PostForm(conf.Endpoint.TokenURL(), srv.TokenRequests()[1].Form)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a replay: got %s; want 401", res.Status)
		}
	})
}

func TestARefusedAssertionIsExplained(t *testing.T) {
	for _, tt := range []struct {
		name       string
		registered func(c *mosaic.Config) // changes what is registered
		want       string                 // of the server's words
	}{
		{"another key", func(c *mosaic.Config) { c.PrivateKey, c.KeyID = authNewEC(t), "kid-1" }, "verification error"},
		{"an unknown kid", func(c *mosaic.Config) { c.KeyID = "kid-2" }, "the client has no key of that kid"},
		{"an algorithm that is not registered", func(c *mosaic.Config) { c.PrivateKey, c.SigningAlgorithm = authRSA(), "RS256" },
			"the client is registered for another algorithm"},
		{"another client", func(c *mosaic.Config) { c.ClientID = "another" }, "the client is not registered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				authKeyClient(t, srv, authEC(), func(c *mosaic.Config) { c.KeyID = "kid-1" }, tt.registered)
				conf := &mosaic.Config{ClientID: "key-client", PrivateKey: authEC(), KeyID: "kid-1", Endpoint: srv.Endpoint()}
				_, err := conf.Token(srv.Context(t.Context()))
				var reply *oauth2.RetrieveError
				if !errors.As(err, &reply) || reply.ErrorCode != "invalid_client" {
					t.Fatalf("got %v; want the RetrieveError of invalid_client", err)
				}
				text := err.Error()
				for _, part := range []string{
					`mosaic: token request to https://example.com/oidc/token failed: 401 Unauthorized: invalid_client, "`,
					tt.want,
					`": check ClientID, KeyID and SigningAlgorithm, and that the application at this Endpoint has what JWKS returns`,
				} {
					if !strings.Contains(text, part) {
						t.Errorf("got %s; want %s in it", text, part)
					}
				}
				if n := len(srv.TokenRequests()); n != 1 {
					t.Errorf("got %d requests; want one: to ask again is of no use", n)
				}
			})
		})
	}
}

// authPublic is a signer with this public key.
type authPublic struct {
	crypto.Signer
	public crypto.PublicKey
}

func (p authPublic) Public() crypto.PublicKey { return p.public }

func TestValidateFindsWhatIsWrongWithKeysAndCertificates(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := authPublic{public: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2046), E: 65537}} // 2047 bits
	good := authCert(t, "acme", authEC(), nil)
	with := func(change func(*tls.Certificate)) func(*mosaic.Config) {
		return func(c *mosaic.Config) {
			cert := *good
			change(&cert)
			c.Certificate = &cert
		}
	}
	key := func(key crypto.Signer, alg string) func(*mosaic.Config) {
		return func(c *mosaic.Config) { c.PrivateKey, c.SigningAlgorithm = key, alg }
	}
	ended := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	expired := authCert(t, "acme", authEC(), nil, func(c *x509.Certificate) { c.NotAfter = ended })

	const unreadable = "PrivateKey's public key cannot be read: the key is empty or broken"
	const fit = "SigningAlgorithm %q does not fit the type of PrivateKey, which signs by %s"
	for _, tt := range []struct {
		name   string
		change func(*mosaic.Config)
		want   string // empty: nothing is wrong
	}{
		{"a key", key(authEC(), ""), ""},
		{"a certificate", func(c *mosaic.Config) { c.Certificate = good }, ""},
		{"a certificate beside a secret", func(c *mosaic.Config) { c.ClientSecret, c.Certificate = "s", good }, ""},
		{"a certificate beside a key", func(c *mosaic.Config) { c.PrivateKey, c.Certificate = authEd(), good }, ""},
		{"a certificate whose key is in an HSM", with(func(c *tls.Certificate) { c.PrivateKey = authHidden{authEC()} }), ""},
		{"a certificate on a curve without an algorithm", func(c *mosaic.Config) { c.Certificate = authCert(t, "acme", p384, nil) }, ""},

		{"nothing", func(*mosaic.Config) {}, "ClientSecret is empty, and there is neither PrivateKey nor Certificate in its place"},
		{"a secret and a key", func(c *mosaic.Config) { c.ClientSecret, c.PrivateKey = "s", authEC() }, "ClientSecret and PrivateKey exclude each other"},
		{"RSA by ES256", key(authRSA(), "ES256"), fmt.Sprintf(fit, "ES256", "RS256 or PS256")},
		{"ECDSA by PS256", key(authEC(), "PS256"), fmt.Sprintf(fit, "PS256", "ES256")},
		{"Ed25519 by ES256", key(authEd(), "ES256"), fmt.Sprintf(fit, "ES256", "EdDSA")},
		{"P-384", key(p384, "ES256"), "PrivateKey is an ECDSA key on P-384: ES256 needs P-256, and there is no algorithm for that curve"},
		{"HS256", key(authRSA(), "HS256"), `SigningAlgorithm "HS256" is not one of RS256, PS256, ES256, EdDSA`},
		{"RSA of 2047 bits", key(weak, ""), "PrivateKey is an RSA key of 2047 bits; want at least 2048 (RFC 7518 §3.3)"},
		{"a nil *rsa.PrivateKey", key((*rsa.PrivateKey)(nil), ""), unreadable},
		{"a nil *ecdsa.PrivateKey", key((*ecdsa.PrivateKey)(nil), ""), unreadable},
		{"a nil ed25519.PrivateKey", key(ed25519.PrivateKey(nil), ""), "PrivateKey is an ed25519.PrivateKey of 0 bytes; want 64 (of a seed, ed25519.NewKeyFromSeed makes one)"},
		{"an empty *rsa.PrivateKey", key(&rsa.PrivateKey{}, ""), unreadable},
		{"an empty *ecdsa.PrivateKey", key(&ecdsa.PrivateKey{}, ""), "PrivateKey is an ECDSA key that is no point on P-256, P-384 or P-521"},
		{"a nil *rsa.PrivateKey by HS256", key((*rsa.PrivateKey)(nil), "HS256"), unreadable + `; SigningAlgorithm "HS256" is not one of RS256, PS256, ES256, EdDSA`},
		{"a nil *rsa.PrivateKey by ES256, which may be right", key((*rsa.PrivateKey)(nil), "ES256"), unreadable},
		{"a signer without a public key", key(authPublic{}, ""), "PrivateKey's public key is of type <nil>; want *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey"},
		{"KeyID, SigningAlgorithm and AssertionAudience without a key", func(c *mosaic.Config) {
			c.ClientSecret, c.KeyID, c.SigningAlgorithm, c.AssertionAudience = "s", "kid-1", "ES256", "https://example.com"
		}, "KeyID is set without PrivateKey; SigningAlgorithm is set without PrivateKey; AssertionAudience is set without PrivateKey"},
		{"text that JSON cannot hold", func(c *mosaic.Config) {
			c.PrivateKey, c.ClientID, c.KeyID, c.AssertionAudience = authEC(), "\xff", "\xff", "\xff"
		}, "ClientID is not valid UTF-8, which an assertion has to be; KeyID is not valid UTF-8, which an assertion has to be; " +
			"AssertionAudience is not valid UTF-8, which an assertion has to be"},

		{"an empty certificate", func(c *mosaic.Config) { c.Certificate = new(tls.Certificate) }, "Certificate: it is empty"},
		{"a certificate of noise", with(func(c *tls.Certificate) { c.Certificate = [][]byte{{1}} }), "Certificate: it cannot be parsed"},
		{"a certificate with noise behind it", with(func(c *tls.Certificate) { c.Certificate = append(c.Certificate, []byte{1}) }),
			"Certificate: certificate 1 of the chain behind it cannot be parsed"},
		{"an expired certificate", func(c *mosaic.Config) { c.Certificate = expired }, "Certificate: it has expired: its NotAfter is " + ended.Format(time.RFC3339)},
		{"an expired certificate without a private key", func(c *mosaic.Config) {
			c.Certificate = &tls.Certificate{Certificate: expired.Certificate}
		}, "Certificate: it has expired: its NotAfter is " + ended.Format(time.RFC3339) + "; Certificate: it has no private key"},
		{"an expired certificate with another's private key", func(c *mosaic.Config) {
			c.Certificate = &tls.Certificate{Certificate: expired.Certificate, PrivateKey: authNewEC(t)}
		}, "Certificate: it has expired: its NotAfter is " + ended.Format(time.RFC3339) + "; Certificate: its private key does not match it"},
		{"a certificate of noise without a private key", func(c *mosaic.Config) {
			c.Certificate = &tls.Certificate{Certificate: [][]byte{{1}}}
		}, "Certificate: it cannot be parsed; Certificate: it has no private key"},
		{"a certificate without a private key", with(func(c *tls.Certificate) { c.PrivateKey = nil }), "Certificate: it has no private key"},
		{"a certificate with another's private key", with(func(c *tls.Certificate) { c.PrivateKey = authNewEC(t) }), "Certificate: its private key does not match it"},
		{"a certificate with a key of another type", with(func(c *tls.Certificate) { c.PrivateKey = authEd() }), "Certificate: its private key does not match it"},
		{"a certificate with a public key", with(func(c *tls.Certificate) { c.PrivateKey = authEd().Public() }), "Certificate: its private key is a ed25519.PublicKey, which is no crypto.Signer"},
		{"a certificate with a nil *rsa.PrivateKey", with(func(c *tls.Certificate) { c.PrivateKey = (*rsa.PrivateKey)(nil) }), "Certificate: its " + unreadable},

		{"all at once", func(c *mosaic.Config) {
			c.ClientSecret, c.PrivateKey, c.SigningAlgorithm, c.Certificate = "s", authRSA(), "EdDSA", new(tls.Certificate)
		}, "ClientSecret and PrivateKey exclude each other; " + fmt.Sprintf(fit, "EdDSA", "RS256 or PS256") + "; Certificate: it is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conf := &mosaic.Config{ClientID: "acme", Endpoint: mosaic.EU}
			tt.change(conf)
			got, want := "", tt.want
			if err := conf.Validate(); err != nil {
				got = err.Error()
			}
			if want != "" {
				want = "mosaic: invalid Config: " + want
			}
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// authSigner is a signer of which the test says what Sign does.
type authSigner struct {
	crypto.Signer
	before func() error
}

func (s authSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := s.before(); err != nil {
		return nil, err
	}
	return s.Signer.Sign(random, digest, opts)
}

func TestASignerThatFails(t *testing.T) {
	locked := errors.New("the HSM is\nlocked")
	for _, tt := range []struct {
		name   string
		fail   func() error
		want   string
		cause  error
		logged bool
	}{
		{"error", func() error { return locked }, `PrivateKey could not sign: the HSM is locked`, locked, false},
		{"panic", func() error { panic("open sesame") }, `PrivateKey panicked (its stack is in the log)`, nil, true},
		{"Goexit", func() error { runtime.Goexit(); return nil }, `PrivateKey ended its goroutine (runtime.Goexit)`, nil, false},
	} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/cached %v", tt.name, cached), func(t *testing.T) {
				authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
					broken := true
					var log kit.Log
					conf := authKeyClient(t, srv, authSigner{authEC(), func() error {
						if broken {
							return tt.fail()
						}
						return nil
					}}, func(c *mosaic.Config) { c.Logger = log.Logger(slog.LevelInfo) })
					ctx := srv.Context(t.Context())
					token := func() (*oauth2.Token, error) { return conf.Token(ctx) }
					if cached {
						token = conf.TokenSource(ctx).Token
					}

					_, err := token()
					want := "mosaic: token request to https://example.com/oidc/token failed: no client assertion: " + tt.want
					if err == nil || err.Error() != want {
						t.Errorf("got  %v\nwant %s", err, want)
					}
					if tt.cause != nil && !errors.Is(err, tt.cause) {
						t.Error("errors.Is does not find the signer's error")
					}
					if n := len(srv.TokenRequests()); n != 0 {
						t.Errorf("got %d requests; want none without an assertion", n)
					}
					synctest.Wait()
					if got := strings.Contains(log.String(), "auth_test.go"); got != tt.logged {
						t.Errorf("the stack is in the log: %v; want %v", got, tt.logged)
					}
					if strings.Contains(log.String()+fmt.Sprint(err), "sesame") {
						t.Error("the panic's value, which may be a key, is in the log or the error")
					}

					broken = false
					if _, err := token(); err != nil {
						t.Errorf("once it signs again: got %v; want a token", err)
					}
				})
			})
		}
	}
}

// authCode is an error of a KMS.
type authCode int

func (c authCode) Error() string { return fmt.Sprint("code ", int(c)) }

func TestASignersOwnDeadlineIsNotTheCallers(t *testing.T) {
	locked := errors.New("the HSM is locked")
	for _, end := range []error{context.DeadlineExceeded, context.Canceled} {
		authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
			conf := authKeyClient(t, srv, authSigner{authEC(), func() error { return errors.Join(end, locked, authCode(7)) }})
			ctx := srv.Context(t.Context())
			for name, token := range map[string]func() (*oauth2.Token, error){
				"Config":      func() (*oauth2.Token, error) { return conf.Token(ctx) },
				"TokenSource": conf.TokenSource(ctx).Token,
			} {
				_, err := token()
				if err == nil || !strings.Contains(err.Error(), end.Error()) {
					t.Fatalf("%s: got %v; want the signer's error", name, err)
				}
				if errors.Is(err, end) {
					t.Errorf("%s: errors.Is finds %q, which is not the caller's", name, end)
				}
				var timeout interface{ Timeout() bool }
				if errors.As(err, &timeout) && timeout.Timeout() {
					t.Errorf("%s, %q: got a timeout", name, end)
				}
				var code authCode
				if !errors.Is(err, locked) || !errors.As(err, &code) || code != 7 {
					t.Errorf("%s: got %v, without the other errors of the signer", name, err)
				}
			}
		})
	}
}

func TestAnAssertionIsFreshHoweverLongItWaitedForTheSigner(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf := authKeyClient(t, srv, authSigner{authEC(), func() error {
			time.Sleep(2 * time.Second)
			return nil
		}})
		ctx := srv.Context(t.Context())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := conf.Token(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(srv.TokenRequests()); n != 4 {
			t.Errorf("got %d requests; want 4", n)
		}
		for i, req := range srv.TokenRequests() {
			_, claims := authAssertion(t, req)
			iat, err := claims.GetIssuedAt()
			if err != nil {
				t.Fatal(err)
			}
			// It is dated back by 10 s, to the second.
			if age := req.Time.Sub(iat.Time); age > 13*time.Second {
				t.Errorf("assertion %d arrived %s after its iat; want 13s at most", i, age)
			}
		}
	})
}

func TestASignerThatHangsCostsOneGoroutineACallAndFourInAll(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		hang := make(chan struct{})
		var hung, calls atomic.Int32
		hung.Store(1)
		conf := authKeyClient(t, srv, authSigner{authEC(), func() error {
			if calls.Add(1); hung.Load() > 0 {
				<-hang
			}
			return nil
		}})
		source := conf.TokenSource(srv.Context(t.Context()))
		before := goroutines(t)
		start := time.Now()
		want := "mosaic: token request to https://example.com/oidc/token failed (3 attempts): no client assertion: PrivateKey did not return in time"
		if _, err := source.Token(); err == nil || err.Error() != want || time.Since(start) > 30*time.Second {
			t.Errorf("got  %v after %s\nwant %s", err, time.Since(start), want)
		}
		for range 100 {
			source.Token()
			time.Sleep(3 * time.Second)
		}
		if got := goroutines(t) - before; got != 4 || calls.Load() != 4 {
			t.Errorf("%d goroutines are left after %d calls; want four", got, calls.Load())
		}
		hung.Store(0)
		close(hang)
		time.Sleep(3 * time.Second)
		if _, err := source.Token(); err != nil {
			t.Errorf("once it signs again: got %v; want a token", err)
		}
	})
}

func TestASignerIsUsedByFourGoroutinesAtATime(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var signing, most atomic.Int32
		conf := authKeyClient(t, srv, authSigner{authEC(), func() error {
			most.Store(max(most.Load(), signing.Add(1)))
			time.Sleep(time.Second)
			signing.Add(-1)
			return nil
		}})
		client := conf.Client(srv.Context(t.Context()))
		done := make(chan error)
		for _, path := range []string{"/cis/x", "/risk/x", "/verify/x", "/xdv/x"} {
			go func() { done <- authGet(client, conf.Endpoint.URL(path), 200) }()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if most.Load() != 4 {
			t.Errorf("%d signatures were made at a time; want 4", most.Load())
		}
	})
}

func TestAClockThatIsOffCostsOneRequestMore(t *testing.T) {
	for _, skew := range []time.Duration{
		0, 4 * time.Second, -4 * time.Second, 2 * time.Minute, -2 * time.Minute,
		30 * time.Minute, -30 * time.Minute, 25 * time.Hour, -25 * time.Hour,
	} {
		t.Run(skew.String(), func(t *testing.T) {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				srv.SetSkew(skew)
				source := authKeyClient(t, srv, authEC()).TokenSource(srv.Context(t.Context()))
				most, start := 2, time.Now()
				if skew.Abs() < 5*time.Second {
					most = 1
				}
				for i := range 4 {
					tok, err := source.Token()
					if err != nil {
						t.Fatalf("token %d: %v", i, err)
					}
					if n := len(srv.TokenRequests()); n > most {
						t.Fatalf("token %d: got %d requests; want at most %d", i, n, most)
					}
					most++
					source.Invalidate(tok)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v; want no pause, neither before the second request nor after", took)
				}
			})
		})
	}
}

// Date and iat are whole seconds, and the way takes time: a server a quarter of
// a minute strict refuses an assertion before its Date is 5 s off.
func TestAServerThatIsStrictAboutAgeIsSatisfiedByTheSecondRequest(t *testing.T) {
	for skew := 3 * time.Second; skew <= 7*time.Second; skew += 250 * time.Millisecond {
		for begin := time.Duration(0); begin < time.Second; begin += 250 * time.Millisecond {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				time.Sleep(begin)
				conf := authKeyClient(t, srv, authEC())
				srv.SetSkew(skew)
				requests := 0
				_, err := conf.Token(authContext(authRoundTripper(func(req *http.Request) (*http.Response, error) {
					requests++
					body, _ := io.ReadAll(req.Body)
					form, _ := url.ParseQuery(string(body))
					var claims jwt.RegisteredClaims
					if _, _, err := jwt.NewParser().ParseUnverified(form.Get("client_assertion"), &claims); err != nil {
						return nil, err
					}
					time.Sleep(100 * time.Millisecond)
					now := time.Now().Add(skew)
					if now.Sub(claims.IssuedAt.Time) > 15*time.Second {
						return authReply(401, "application/json", `{"error":"invalid_client"}`, now), nil
					}
					req.Body = io.NopCloser(bytes.NewReader(body))
					return srv.Client().Transport.RoundTrip(req)
				})))
				if err != nil || requests > 2 {
					t.Errorf("%s behind, %s into a second: got error %v after %d requests; want a token after 2 at most", skew, begin, err, requests)
				}
			})
		}
	}
}

func TestAClockThatIsPutRightIsNoticed(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		source := authKeyClient(t, srv, authEC()).TokenSource(srv.Context(t.Context()))
		var last *oauth2.Token
		for _, step := range []struct {
			skew     time.Duration
			statuses []int
		}{
			{30 * time.Minute, []int{401, 200}},
			{30 * time.Minute, []int{200}},
			{0, []int{401, 200}},
			{0, []int{200}},
			{-25 * time.Hour, []int{401, 200}},
		} {
			before := len(srv.TokenRequests())
			srv.SetSkew(step.skew)
			time.Sleep(45 * time.Minute) // so that it is renewed in the background, where there is one attempt
			tok, err := source.Token()
			if err != nil {
				t.Fatalf("at %v: %v", step.skew, err)
			}
			if last != nil && tok.AccessToken == last.AccessToken {
				t.Errorf("at %v: the token was not renewed", step.skew)
			}
			last = tok
			var statuses []int
			for _, req := range srv.TokenRequests()[before:] {
				statuses = append(statuses, req.Status)
			}
			if !slices.Equal(statuses, step.statuses) {
				t.Errorf("at %v: got answers %v; want %v", step.skew, statuses, step.statuses)
			}
		}
	})
}

func TestAWrongDateIsNotBelievedForGood(t *testing.T) {
	for _, off := range []time.Duration{2 * time.Minute, -2 * time.Minute} {
		t.Run(off.String(), func(t *testing.T) {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := authKeyClient(t, srv, authEC())
				source := conf.TokenSource(authContext(authRoundTripper(func(req *http.Request) (*http.Response, error) {
					res, err := srv.Client().Transport.RoundTrip(req)
					if err == nil { // a proxy stamps it
						res.Header.Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
					}
					return res, err
				})))
				srv.FailNext(1, mosaictest.Fault{Status: 401, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"error":"invalid_client"}`})
				if _, err := source.Token(); err == nil {
					t.Fatal("got a token in spite of the refusal, which the Date does not explain")
				}
				time.Sleep(time.Minute)
				if _, err := source.Token(); err != nil {
					t.Errorf("later: got %v; want a token", err)
				}
				var statuses []int
				for _, req := range srv.TokenRequests() {
					statuses = append(statuses, req.Status)
				}
				if want := []int{401, 401, 200}; !slices.Equal(statuses, want) {
					t.Errorf("got answers %v; want %v: a second try by the Date, then by the own clock", statuses, want)
				}
			})
		})
	}
}

func TestADateIsNotOffBecauseTheReplyWasSlow(t *testing.T) {
	for _, latency := range []struct{ before, after time.Duration }{{7 * time.Second, 0}, {0, 7 * time.Second}} {
		authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
			srv.SetLatency(latency.before, latency.after)
			conf := &mosaic.Config{ClientID: "nobody", PrivateKey: authEC(), Endpoint: srv.Endpoint()}
			_, err := conf.Token(srv.Context(t.Context()))
			if n := len(srv.TokenRequests()); n != 1 {
				t.Errorf("%v: got %d requests; want one", latency, n)
			}
			if err == nil || strings.Contains(err.Error(), "clock") {
				t.Errorf("%v: got %v; want a refusal, and nothing of clocks", latency, err)
			}
		})
	}
}

func TestASecondRequestForTheClocksSakeIsNoFurtherAttempt(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.SetSkew(30 * time.Minute)
		srv.SetLatency(0, time.Second)
		conf := authKeyClient(t, srv, authEC())
		go func() {
			time.Sleep(time.Second / 2)         // the first request is under way
			srv.FailNext(2, mosaictest.Fault{}) // then comes an outage
		}()
		if _, err := conf.Token(srv.Context(t.Context())); err != nil {
			t.Errorf("got %v; want a token after a refusal and two failures", err)
		}
		if n := len(srv.TokenRequests()); n != 4 {
			t.Errorf("got %d requests; want 4", n)
		}
	})
}

func TestARefusalBesideAClockThatIsOffSaysSo(t *testing.T) {
	for _, skew := range []time.Duration{30 * time.Minute, -30 * time.Minute} {
		authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
			srv.SetSkew(skew)
			conf := &mosaic.Config{ClientID: "nobody", PrivateKey: authEC(), Endpoint: srv.Endpoint()}
			_, err := conf.Token(srv.Context(t.Context()))
			if n := len(srv.TokenRequests()); n != 2 {
				t.Errorf("%v: got %d requests; want the second, dated by the server's clock, to be the last", skew, n)
			}
			if err == nil || !strings.Contains(err.Error(), "invalid_client") {
				t.Errorf("%v: got %v; want invalid_client", skew, err)
			}
		})
		authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
			date := time.Now().Add(skew)
			ctx := authContext(authRoundTripper(func(*http.Request) (*http.Response, error) {
				date = date.Add(skew) // as of servers whose clocks differ among themselves
				return authReply(401, "application/json", `{"error":"invalid_client"}`, date), nil
			}))
			conf := &mosaic.Config{ClientID: "nobody", PrivateKey: authEC(), Endpoint: srv.Endpoint()}
			_, err := conf.Token(ctx)
			if want := "; the local clock differs from the server's by 1h30m0s"; err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%v: got %v; want %q at its end", skew, err, want)
			}
		})
	}
}

// authTransports are the base transports that a caller may come with, before
// they know whom to trust. Each is of one request's time.
var authTransports = []struct {
	name   string
	change func(t testing.TB, base *http.Transport)
	proto  string
}{
	{"plain", func(testing.TB, *http.Transport) {}, "HTTP/1.1"},
	{"ForceAttemptHTTP2", func(_ testing.TB, base *http.Transport) { base.ForceAttemptHTTP2 = true }, "HTTP/2.0"},
	{"HTTP/2 given up by an empty TLSNextProto", func(_ testing.TB, base *http.Transport) {
		base.ForceAttemptHTTP2 = true
		base.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	}, "HTTP/1.1"},
	{"Protocols of HTTP/1.1", func(_ testing.TB, base *http.Transport) { base.Protocols = authProtocols(true, false) }, "HTTP/1.1"},
	{"Protocols of HTTP/1.1 over ForceAttemptHTTP2", func(_ testing.TB, base *http.Transport) {
		base.Protocols, base.ForceAttemptHTTP2 = authProtocols(true, false), true
	}, "HTTP/1.1"},
	{"Protocols of HTTP/1.1 and unencrypted HTTP/2", func(_ testing.TB, base *http.Transport) {
		base.Protocols = authProtocols(true, false)
		base.Protocols.SetUnencryptedHTTP2(true)
	}, "HTTP/1.1"},
	{"Protocols of both", func(_ testing.TB, base *http.Transport) { base.Protocols = authProtocols(true, true) }, "HTTP/2.0"},
	{"Protocols of HTTP/2", func(_ testing.TB, base *http.Transport) { base.Protocols = authProtocols(false, true) }, "HTTP/2.0"},
	{"HTTP/2 by hand", func(t testing.TB, base *http.Transport) { authConfigureHTTP2(t, base, "h2") }, "HTTP/2.0"},
	{"HTTP/2 by x/net", func(t testing.TB, base *http.Transport) { authConfigureHTTP2(t, base, "h2", "unencrypted_http2") }, "HTTP/2.0"},
	{"HTTP/2 by x/net, with Protocols", func(t testing.TB, base *http.Transport) {
		base.Protocols = authProtocols(true, true)
		authConfigureHTTP2(t, base, "h2", "unencrypted_http2")
	}, "HTTP/2.0"},
	{"HTTP/2 by x/net, against Protocols", func(t testing.TB, base *http.Transport) {
		base.Protocols = authProtocols(true, false)
		authConfigureHTTP2(t, base, "h2", "unencrypted_http2")
	}, "HTTP/2.0"},
	{"HTTP/2 by hand, beside a protocol of the caller's own", func(t testing.TB, base *http.Transport) {
		authConfigureHTTP2(t, base, "h2")
		base.TLSNextProto["acme/1"] = func(string, *tls.Conn) http.RoundTripper { return nil }
	}, "HTTP/2.0"},
	{"resuming TLS sessions", func(_ testing.TB, base *http.Transport) {
		base.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}, "HTTP/1.1"},
	{"resuming TLS sessions, HTTP/2", func(_ testing.TB, base *http.Transport) {
		base.ForceAttemptHTTP2 = true
		base.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}, "HTTP/2.0"},
}

// authConfigureHTTP2 does to base what http2.ConfigureTransports of
// golang.org/x/net does: entries of these names lead into an HTTP/2 pool that is
// base's own. (x/net would be a third module; here the pool is another transport,
// which is handed base's connections and dials none.)
func authConfigureHTTP2(_ testing.TB, base *http.Transport, names ...string) {
	conns := make(chan net.Conn, 100)
	pool := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return <-conns, nil },
	}
	base.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	for _, name := range names {
		base.TLSNextProto[name] = func(_ string, c *tls.Conn) http.RoundTripper {
			conns <- c
			return pool
		}
	}
	base.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"}
}

// Two clients and the caller itself share one transport. Which certificate a
// request arrives with is who it comes from.
func TestEachRequestArrivesUnderItsOwnCertificate(t *testing.T) {
	for _, tt := range authTransports {
		t.Run(tt.name, func(t *testing.T) {
			srv := authServer(t)
			pool := x509.NewCertPool()
			pool.AddCert(authCert(t, "another CA", authEC(), nil).Leaf)
			srv.RegisterCA("another", pool, "CN=another") // the server now names CAs that are not ours
			base := authBase(srv, nil)
			tt.change(t, base)
			own := &http.Client{Transport: base}
			srv.BindTokens(true)

			wantBase := func(when string) {
				t.Helper()
				if err := authGet(own, srv.Endpoint().URL("/x"), 401); err != nil {
					t.Fatalf("%s, the caller's own client: %v", when, err)
				}
				reqs := srv.APIRequests()
				if req := reqs[len(reqs)-1]; req.Proto != tt.proto || req.Certificate != nil {
					t.Errorf("%s, the caller's own request: %s, with a certificate: %v; want %s without one", when, req.Proto, req.Certificate != nil, tt.proto)
				}
			}
			wantBase("before")
			base.CloseIdleConnections() // a session of it may now be resumed
			wantBase("resumed")

			certs := make(map[string]*tls.Certificate)
			clients := make(map[string]*http.Client)
			for _, id := range []string{"a", "b"} {
				conf := authCertClient(t, srv, id)
				certs[id] = conf.Certificate
				if _, err := conf.Token(authContext(base)); err != nil {
					t.Fatalf("%s: %v", id, err)
				}
				clients[id] = conf.Client(authContext(base))
			}
			for range 2 {
				for id, client := range clients {
					if err := authGet(client, srv.Endpoint().URL("/cis/x?who="+id), 200); err != nil {
						t.Errorf("%s, calling an API: %v", id, err)
					}
				}
			}
			wantBase("after")

			arrived := srv.TokenRequests()
			for _, req := range srv.APIRequests() {
				if strings.Contains(req.RequestURI, "who=") {
					arrived = append(arrived, req)
				}
			}
			if len(arrived) != 8 {
				t.Errorf("got %d requests; want 4 for tokens and 4 to APIs", len(arrived))
			}
			for _, req := range arrived {
				id := req.Form.Get("client_id")
				if id == "" {
					_, id, _ = strings.Cut(req.RequestURI, "who=")
				}
				if req.Certificate == nil || !req.Certificate.Equal(certs[id].Leaf) || req.Proto != tt.proto || req.Status != 200 {
					t.Errorf("%s's request to %s: %s, status %d, under its own certificate: %v; want %s, 200, true",
						id, req.RequestURI, req.Proto, req.Status, req.Certificate.Equal(certs[id].Leaf), tt.proto)
				}
			}
		})
	}
}

func TestTheTransportsOwnCertificateIsNotPresented(t *testing.T) {
	srv := authServer(t)
	base := authBase(srv, nil)
	theirs := authCert(t, "theirs", authEC(), nil)
	base.TLSClientConfig.Certificates = []tls.Certificate{*theirs}
	base.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return theirs, nil }
	conf := authCertClient(t, srv, "ours")
	if _, err := conf.Token(authContext(base)); err != nil {
		t.Error(err)
	}
	if err := authGet(&http.Client{Transport: base}, srv.Endpoint().URL("/x"), 401); err != nil {
		t.Error(err)
	}
	if !srv.APIRequests()[0].Certificate.Equal(theirs.Leaf) {
		t.Error("the caller's own request: it came without the caller's own certificate")
	}
}

func TestACASignedCertificateComesWithItsIntermediate(t *testing.T) {
	root := authCert(t, "root CA", authEC(), nil)
	intermediate := authCert(t, "intermediate CA", authEC(), root)
	pool := x509.NewCertPool()
	pool.AddCert(root.Leaf)
	for _, tt := range []struct {
		name string
		key  crypto.Signer
	}{
		{"RSA", authRSA()},
		{"ECDSA", authEC()},
		{"Ed25519", authEd()},
		{"RSA in an HSM", authHidden{authRSA()}},
		{"ECDSA in an HSM", authHidden{authEC()}},
		{"Ed25519 in an HSM", authHidden{authEd()}},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/HTTP2 %v", tt.name, http2), func(t *testing.T) {
				srv := authServer(t)
				srv.RegisterCA("acme", pool, "CN=acme")
				base := authBase(srv, nil)
				base.ForceAttemptHTTP2 = http2
				conf := &mosaic.Config{ClientID: "acme", Certificate: authCert(t, "acme", tt.key, intermediate), Endpoint: srv.Endpoint()}
				if _, err := conf.Token(authContext(base)); err != nil {
					t.Errorf("got %v; want a token", err)
				}
			})
		}
	}
}

func TestACertificateBesideAnotherCredentialBindsTheToken(t *testing.T) {
	for _, kind := range []string{"secret", "key"} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/HTTP2 %v", kind, http2), func(t *testing.T) {
				srv := authServer(t)
				srv.BindTokens(true)
				base := authBase(srv, nil)
				base.ForceAttemptHTTP2 = http2
				conf := srv.Config()
				conf.Certificate = authCert(t, "acme", authNewEC(t), nil)
				if kind == "key" {
					conf.ClientSecret, conf.PrivateKey = "", authEd()
					srv.RegisterKey(conf.ClientID, authJWKS(t, conf))
				}

				source := conf.TokenSource(authContext(base))
				tok, err := source.Token()
				if err != nil {
					t.Fatal(err)
				}
				claims, err := mosaic.ParseClaims(tok)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(conf.Certificate.Certificate[0])
				want := base64.RawURLEncoding.EncodeToString(sum[:])
				if claims.Confirmation == nil || claims.Confirmation.CertificateThumbprint != want {
					t.Errorf("got cnf %v; want x5t#S256 %s", claims.Confirmation, want)
				}
				api := srv.Endpoint().URL("/cis/x")
				for name, call := range map[string]struct {
					client *http.Client
					status int
				}{
					"Config.Client":                  {conf.Client(authContext(base)), 200},
					"oauth2.NewClient, without mTLS": {oauth2.NewClient(authContext(base), oauth2.StaticTokenSource(tok)), 401},
				} {
					if err := authGet(call.client, api, call.status); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
	}
}

func TestATokenThatIsBoundToAnotherCertificateIsRefused(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		ctx := srv.Context(t.Context())
		theirs, err := authCertClient(t, srv, "theirs").Token(ctx)
		if err != nil {
			t.Fatal(err)
		}
		reply, _ := json.Marshal(map[string]any{"access_token": theirs.AccessToken, "token_type": "Bearer", "expires_in": 3600})
		fault := mosaictest.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: string(reply)}

		before := len(srv.TokenRequests())
		srv.FailNext(1, fault)
		_, err = authCertClient(t, srv, "ours").Token(ctx)
		want := "mosaic: token request to https://example.com/cis/oidc/token failed: the reply holds no usable token: " +
			"it is bound to another certificate than Config.Certificate: something on the way ends the TLS connection"
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if n := len(srv.TokenRequests()) - before; n != 1 {
			t.Errorf("got %d requests; want one", n)
		}

		srv.FailNext(1, fault)
		if _, err := srv.Config().Token(ctx); err != nil {
			t.Errorf("a client that presents no certificate: got %v; want the token, for others to judge", err)
		}
	})
}

// authBroken is an error whose methods panic if it is nil.
type authBroken struct{ text string }

func (e *authBroken) Error() string { return e.text }

func TestACertificatesKeyThatFails(t *testing.T) {
	locked := errors.New("the HSM is\nlocked")
	hang := make(chan struct{})
	for _, tt := range []struct {
		name   string
		fail   func() error
		want   string
		cause  error
		logged bool
	}{
		{"error", func() error { return locked }, `the HSM is locked`, locked, false},
		{"an error that cannot be read", func() error { return (*authBroken)(nil) }, "<nil>", nil, false},
		{"panic", func() error { panic("open sesame") }, "the private key of Certificate panicked (its stack is in the log)", nil, true},
		{"Goexit", func() error { runtime.Goexit(); return nil }, "the private key of Certificate ended its goroutine (runtime.Goexit)", nil, false},
		{"hang", func() error { <-hang; return nil }, "the private key of Certificate did not return in time", nil, false},
	} {
		for _, key := range []crypto.Signer{authRSA(), authEC(), authEd()} {
			t.Run(fmt.Sprintf("%s/%T", tt.name, key), func(t *testing.T) {
				authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
					hang = make(chan struct{})
					var broken atomic.Bool
					var log kit.Log
					cert := authCert(t, "acme", key, nil)
					cert.PrivateKey = authSigner{key, func() error {
						if broken.Load() {
							return tt.fail()
						}
						return nil
					}}
					conf := authCertClient(t, srv, "acme")
					conf.Certificate, conf.Logger = cert, log.Logger(slog.LevelInfo)
					srv.RegisterCertificate("acme", cert.Leaf)
					base := srv.Client().Transport.(*http.Transport).Clone()
					base.MaxConnsPerHost = 1
					ctx := authContext(base)
					source := conf.TokenSource(ctx)
					for name, token := range map[string]func() (*oauth2.Token, error){
						"Config":      func() (*oauth2.Token, error) { return conf.Token(ctx) },
						"TokenSource": source.Token,
					} {
						broken.Store(true)
						before, begun := goroutines(t), time.Now()
						_, err := token()
						want := "mosaic: token request to https://example.com/cis/oidc/token failed (3 attempts): no TLS handshake: " + tt.want
						if err == nil || err.Error() != want {
							t.Errorf("%s: got  %v\nwant %s", name, err, want)
						}
						if tt.cause != nil && !errors.Is(err, tt.cause) {
							t.Errorf("%s: errors.Is does not find the signer's error", name)
						}
						if took := time.Since(begun); took > 30*time.Second {
							t.Errorf("%s: failed after %s; want no longer than 30s", name, took)
						}
						left := 0
						if tt.name == "hang" {
							token() // there have been six attempts, then
							left = map[string]int{"Config": 6, "TokenSource": 4}[name]
						}
						if got := goroutines(t) - before; got > left {
							t.Errorf("%s: %d goroutines are left; want %d", name, got, left)
						}
						synctest.Wait()
						if got := strings.Contains(log.String(), "auth_test.go"); got != tt.logged {
							t.Errorf("%s: the stack is in the log: %v; want %v", name, got, tt.logged)
						}
						if strings.Contains(log.String()+fmt.Sprint(err), "sesame") {
							t.Errorf("%s: the panic's value, which may be a key, is in the log or the error", name)
						}
						broken.Store(false)
						close(hang)
						hang = make(chan struct{})
						time.Sleep(2 * time.Second) // over the source's pause
						if _, err := token(); err != nil {
							t.Errorf("%s, once it signs again: got %v; want a token", name, err)
						}
						base.CloseIdleConnections()
					}
				})
			})
		}
	}
}

func TestTheStandInTakesTheJWKSOfAKeyBesideACertificateOfAnotherKind(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf := authKeyClient(t, srv, authEC(), func(c *mosaic.Config) { c.Certificate = authCert(t, "acme", p384, nil) })
		if _, err := conf.Token(srv.Context(t.Context())); err != nil {
			t.Errorf("got %v; want a token", err)
		}
	})
}

// In TLS 1.3 a server refuses a certificate after the handshake, and the client
// may see no more of it than the end of the connection.
func TestAConnectionThatEndsBeforeAReplyMayBeForTheCertificate(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.Fail(mosaictest.Fault{})
		ctx := srv.Context(t.Context())
		const ended = "failed (3 attempts): the connection was closed before a reply came"
		for want, conf := range map[string]*mosaic.Config{
			ended: srv.Config(),
			ended + ": the server may have refused Certificate": authCertClient(t, srv, "acme"),
		} {
			if _, err := conf.Token(ctx); err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("got %v; want …%s", err, want)
			}
		}
	})
}

func TestTheCertificateGoesToKnownOriginsOnly(t *testing.T) {
	srv, foreign := authServer(t), authServer(t)
	srv.BindTokens(true)
	srv.Handle("/cis/away", http.RedirectHandler(string(foreign.Endpoint())+"/cis/landed", http.StatusFound))
	conf := authCertClient(t, srv, "acme")
	client := conf.Client(authContext(authBase(srv, nil)))
	for _, target := range []string{srv.Endpoint().URL("/cis/away"), foreign.Endpoint().URL("/cis/direct")} {
		if err := authGet(client, target, 401); err != nil {
			t.Fatal(err)
		}
	}
	if req := srv.APIRequests()[0]; req.Certificate == nil || req.Header.Get("Authorization") == "" {
		t.Error("the known origin: want the certificate and a token")
	}
	if n := len(foreign.APIRequests()); n != 2 {
		t.Errorf("the foreign server got %d requests; want 2", n)
	}
	for _, req := range foreign.APIRequests() {
		if req.Certificate != nil || req.Header.Get("Authorization") != "" {
			t.Errorf("%s at a foreign server: with the certificate: %v, with a token: %v; want neither",
				req.RequestURI, req.Certificate != nil, req.Header.Get("Authorization") != "")
		}
	}
}

func TestProxyAndDialContextOfTheTransportAreKept(t *testing.T) {
	srv := authServer(t)
	var tunnels, dials atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnels.Add(1)
		authTunnel(w, r)
	}))
	defer proxy.Close()
	base := authBase(srv, func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	})
	base.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	base.ForceAttemptHTTP2 = true
	if _, err := authCertClient(t, srv, "acme").Token(authContext(base)); err != nil {
		t.Fatalf("got %v; want a token, through the proxy", err)
	}
	if dials.Load() != 1 || tunnels.Load() != 1 {
		t.Errorf("got %d calls of DialContext and %d tunnels through the proxy; want one each", dials.Load(), tunnels.Load())
	}
	if got := srv.TokenRequests()[0].Proto; got != "HTTP/2.0" {
		t.Errorf("got %s; want HTTP/2.0 as without a certificate", got)
	}
}

func TestATransportThatCannotPresentTheCertificateIsRefused(t *testing.T) {
	const dials = "mosaic: Certificate needs an HTTP client whose Transport has neither DialTLS nor DialTLSContext: the certificate could not be presented"
	for _, tt := range []struct {
		name string
		base http.RoundTripper
		want string
	}{
		{"a RoundTripper", authRoundTripper(nil), "mosaic: Certificate needs an HTTP client whose Transport is an *http.Transport, not a behaviour_test.authRoundTripper"},
		{"nil", (*http.Transport)(nil), "mosaic: Certificate needs an HTTP client whose Transport is an *http.Transport that is not nil"},
		//lint:ignore SA1019 deprecated, and in force
		{"DialTLS", &http.Transport{DialTLS: func(string, string) (net.Conn, error) { return nil, nil }}, dials},
		{"DialTLSContext", &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}, dials},
	} {
		conf := &mosaic.Config{ClientID: "acme", Certificate: authCert(t, "acme", authEC(), nil), Endpoint: mosaic.EU}
		ctx := authContext(tt.base)
		_, tokenErr := conf.Token(ctx)
		_, sourceErr := conf.TokenSource(ctx).Token()
		_, clientErr := conf.Client(ctx).Transport.RoundTrip(httptest.NewRequest("GET", mosaic.EU.URL("/cis/x"), nil))
		for method, err := range map[string]error{"Token": tokenErr, "TokenSource": sourceErr, "Client": clientErr} {
			if err == nil || err.Error() != tt.want {
				t.Errorf("%s, %s: got  %v\nwant %s", tt.name, method, err, tt.want)
			}
		}
	}
}

func TestTheCallersClientAndTransportAreUntouched(t *testing.T) {
	for _, tt := range authTransports {
		t.Run(tt.name, func(t *testing.T) {
			srv := authServer(t)
			base := authBase(srv, nil)
			tt.change(t, base)
			base.CloseIdleConnections() // net/http sets a transport up when it is first used
			own := &http.Client{Transport: base, Timeout: time.Hour}
			before := []map[string]any{authFields(own), authFields(base), authFields(base.TLSClientConfig)}
			entries, protos := len(base.TLSNextProto), slices.Clone(base.TLSClientConfig.NextProtos)

			conf := authCertClient(t, srv, "acme")
			ctx := context.WithValue(context.Background(), oauth2.HTTPClient, own)
			if _, err := conf.Token(ctx); err != nil {
				t.Fatal(err)
			}
			if err := authGet(conf.Client(ctx), srv.Endpoint().URL("/cis/x"), 200); err != nil {
				t.Fatal(err)
			}

			for i, after := range []map[string]any{authFields(own), authFields(base), authFields(base.TLSClientConfig)} {
				for field, value := range after {
					if value != before[i][field] {
						t.Errorf("%s has changed", field)
					}
				}
			}
			if len(base.TLSNextProto) != entries || !slices.Equal(base.TLSClientConfig.NextProtos, protos) {
				t.Errorf("got %d entries of TLSNextProto and NextProtos %q; want %d and %q as before",
					len(base.TLSNextProto), base.TLSClientConfig.NextProtos, entries, protos)
			}
		})
	}
}

func TestConnectionsThatPresentTheCertificateAreFewAndClosed(t *testing.T) {
	authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var dialed, open atomic.Int32
		base := authBase(srv, nil)
		dial := base.DialContext
		base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			dialed.Add(1)
			open.Add(1)
			return &authConn{Conn: conn, closed: sync.OnceFunc(func() { open.Add(-1) })}, err
		}
		want := func(who string, wantDialed, wantOpen int32) {
			t.Helper()
			synctest.Wait()
			if d, o := dialed.Swap(0), open.Load(); d != wantDialed || o != wantOpen {
				t.Errorf("%s: %d connections were made, and %d are open; want %d and %d", who, d, o, wantDialed, wantOpen)
			}
		}
		conf, ctx := authCertClient(t, srv, "acme"), authContext(base)

		if _, err := conf.Token(ctx); err != nil {
			t.Fatal(err)
		}
		want("Config.Token", 1, 0)
		srv.FailNext(1, mosaictest.Fault{Status: 400})
		if _, err := conf.Token(ctx); err == nil {
			t.Fatal("got a token in spite of the fault")
		}
		want("Config.Token that fails", 1, 0)

		source := conf.TokenSource(ctx)
		for range 3 {
			tok, err := source.Token()
			if err != nil {
				t.Fatal(err)
			}
			source.Invalidate(tok)
		}
		want("a source with three tokens", 1, 1)

		client := conf.Client(ctx)
		for _, path := range []string{"/cis/x", "/risk/x", "/verify/x", "/xdv/x"} {
			if err := authGet(client, srv.Endpoint().URL(path), 200); err != nil {
				t.Fatal(err)
			}
		}
		want("a client that has called every service", 1, 2)
		client.CloseIdleConnections()
		want("a client whose connections were closed", 0, 1)
	})
}

func TestJWKSHasThePublicKeysOfKeyAndCertificate(t *testing.T) {
	root := authCert(t, "root CA", authEC(), nil)
	certKey := authNewEC(t)
	cert := authCert(t, "acme", certKey, root)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const noKey = "mosaic: a Config with a ClientSecret alone has no public key to submit"
	for _, tt := range []struct {
		name   string
		change func(*mosaic.Config)
		want   []string // of each JWK: kty, alg, kid where it is given, and the number of certificates
		err    string
	}{
		{"a key", func(c *mosaic.Config) { c.PrivateKey = authRSA() }, []string{"RSA RS256 0"}, ""},
		{"a key with a KeyID and an algorithm", func(c *mosaic.Config) {
			c.PrivateKey, c.SigningAlgorithm, c.KeyID = authRSA(), "PS256", "k"
		}, []string{"RSA PS256 k 0"}, ""},
		{"a certificate", func(c *mosaic.Config) { c.Certificate = cert }, []string{"EC ES256 2"}, ""},
		{"a certificate on P-384", func(c *mosaic.Config) { c.Certificate = authCert(t, "acme", p384, nil) }, []string{"EC <nil> 1"}, ""},
		{"a secret and a certificate", func(c *mosaic.Config) { c.ClientSecret, c.Certificate = "s", cert }, []string{"EC ES256 2"}, ""},
		{"a key and a certificate", func(c *mosaic.Config) { c.PrivateKey, c.Certificate, c.KeyID = authEd(), cert, "k" },
			[]string{"OKP EdDSA k 0", "EC ES256 2"}, ""},
		{"a certificate of the key itself", func(c *mosaic.Config) {
			c.PrivateKey, c.Certificate, c.KeyID = authHidden{certKey}, cert, "k"
		}, []string{"EC ES256 k 2"}, ""},
		{"a secret", func(c *mosaic.Config) { c.ClientSecret = "s" }, nil, noKey},
		{"nothing", func(*mosaic.Config) {}, nil,
			"mosaic: invalid Config: ClientSecret is empty, and there is neither PrivateKey nor Certificate in its place"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conf := &mosaic.Config{ClientID: "acme", Endpoint: mosaic.EU}
			tt.change(conf)
			if tt.err != "" {
				if _, err := conf.JWKS(); err == nil || err.Error() != tt.err {
					t.Errorf("got  %v\nwant %s", err, tt.err)
				}
				return
			}
			var got []string
			public := []string{"kty", "use", "kid", "alg", "crv", "x", "y", "n", "e", "x5c"}
			for _, jwk := range authSet(t, conf) {
				for member := range jwk {
					if !slices.Contains(public, member) {
						t.Errorf("there is a member %q", member)
					}
				}
				kid, _ := jwk["kid"].(string)
				if kid += " "; kid != "k " {
					kid = "" // a thumbprint
				}
				x5c, _ := jwk["x5c"].([]any)
				for i, text := range x5c {
					der, err := base64.StdEncoding.DecodeString(text.(string))
					if err != nil || !bytes.Equal(der, conf.Certificate.Certificate[i]) {
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

func TestAnAssertionThatAServerSendsBackIsInNoError(t *testing.T) {
	asJSON := func(code, text string) string {
		body, _ := json.Marshal(map[string]string{"error": code, "error_description": text, "error_uri": "https://x/?" + text})
		return string(body)
	}
	for _, tt := range []struct {
		name, media string
		status      int
		body        func(form string, assertion string) string
	}{
		{"JSON", "application/json", 401, func(_, assertion string) string { return asJSON("invalid_client", "bad assertion "+assertion) }},
		{"JSON, the form", "application/json", 400, func(form, _ string) string { return asJSON("invalid_request", form) }},
		{"JSON, as the code", "application/json", 400, func(_, assertion string) string { return asJSON(assertion, "") }},
		{"JSON of another form", "application/json", 500, func(_, assertion string) string { return `{"message":["` + assertion + `"]}` }},
		{"HTML", "text/html", 403, func(form, _ string) string { return "<pre>" + html.EscapeString(form) + "</pre>" }},
		{"text", "text/plain", 502, func(form, assertion string) string { return form + "\n" + assertion }},
		{"text, broken off", "text/plain", 400, func(_, assertion string) string { return assertion[:len(assertion)-20] }},
		{"success", "application/json", 200, func(_, assertion string) string { return asJSON("invalid_client", assertion) }},
		{"success, as the token's type", "application/json", 200, func(_, assertion string) string {
			return `{"access_token":"x","token_type":"` + assertion + `"}`
		}},
		{"success, in no JSON", "application/json", 200, func(form, _ string) string { return form }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			authBubble(t, func(t *testing.T, srv *mosaictest.Server) {
				var log kit.Log
				var sent []string
				conf := authKeyClient(t, srv, authEC(), func(c *mosaic.Config) {
					c.Logger = log.Logger(slog.LevelDebug)
				})
				ctx := authContext(authRoundTripper(func(req *http.Request) (*http.Response, error) {
					body, err := io.ReadAll(req.Body)
					if err != nil {
						return nil, err
					}
					form, err := url.ParseQuery(string(body))
					assertion := form.Get("client_assertion")
					sent = append(sent, assertion)
					res := authReply(tt.status, tt.media, tt.body(string(body), assertion), time.Now())
					res.Header.Set("X-Debug", assertion)
					return res, err
				}))
				_, err := conf.TokenSource(ctx).Token()
				if err == nil {
					t.Fatal("got a token; want an error")
				}
				synctest.Wait()
				seen := fmt.Sprintf("%v %+v %#v ", err, err, err) + log.String()
				var reply *oauth2.RetrieveError
				if errors.As(err, &reply) {
					seen += fmt.Sprint(reply.ErrorCode, reply.ErrorDescription, reply.ErrorURI, string(reply.Body), reply.Response.Header, reply.Response.Request)
				}
				for _, assertion := range sent {
					for i, part := range strings.Split(assertion, ".")[1:] {
						if strings.Contains(seen, part) {
							t.Errorf("part %d of the assertion is in the error or the log", i+1)
						}
					}
				}
			})
		})
	}
}

var (
	authRSA = authOnce(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	authEC  = authOnce(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	authEd  = authOnce(func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
)

// authOnce makes a key when it is first asked for: RSA keys take a while.
func authOnce(generate func() (crypto.Signer, error)) func() crypto.Signer {
	return sync.OnceValue(func() crypto.Signer {
		key, err := generate()
		if err != nil {
			panic(err)
		}
		return key
	})
}

func authNewEC(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// authHidden is a signer that is known only by its Public, as a KMS's is.
type authHidden struct{ crypto.Signer }

// authCert returns a certificate for key, signed by parent or by itself. Those
// that are named as a CA are one.
func authCert(t testing.TB, name string, key crypto.Signer, parent *tls.Certificate, change ...func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes([]byte(rand.Text())),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Unix(0, 0), // a bubble's clock starts in the year 2000
		NotAfter:              time.Now().AddDate(50, 0, 0),
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA:                  strings.HasSuffix(name, "CA"),
		BasicConstraintsValid: true,
	}
	for _, f := range change {
		f(template)
	}
	issuer, issuerKey, chain := template, key, [][]byte(nil)
	if parent != nil {
		issuer, issuerKey, chain = parent.Leaf, parent.PrivateKey.(crypto.Signer), parent.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key, Leaf: leaf}
}

func authBubble(t *testing.T, f func(t *testing.T, srv *mosaictest.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := mosaictest.NewInMemory()
		defer srv.Close()
		f(t, srv)
	})
}

func authServer(t testing.TB) *mosaictest.Server {
	t.Helper()
	srv := mosaictest.NewServer()
	t.Cleanup(srv.Close)
	return srv
}

// authKeyClient returns the Config of a client with this key, registered by what
// its JWKS prints.
func authKeyClient(t testing.TB, srv *mosaictest.Server, key crypto.Signer, change ...func(*mosaic.Config)) *mosaic.Config {
	t.Helper()
	conf := &mosaic.Config{ClientID: "key-client", PrivateKey: key, Endpoint: srv.Endpoint()}
	for _, f := range change {
		f(conf)
	}
	srv.RegisterKey(conf.ClientID, authJWKS(t, conf))
	return conf
}

// authCertClient returns the Config of a client that is registered with a
// self-signed certificate.
func authCertClient(t testing.TB, srv *mosaictest.Server, id string) *mosaic.Config {
	t.Helper()
	cert := authCert(t, id, authNewEC(t), nil)
	srv.RegisterCertificate(id, cert.Leaf)
	return &mosaic.Config{ClientID: id, Certificate: cert, Endpoint: srv.Endpoint()}
}

func authJWKS(t testing.TB, conf *mosaic.Config) []byte {
	t.Helper()
	set, err := conf.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// authSet returns the JWKs that conf prints.
func authSet(t testing.TB, conf *mosaic.Config) []map[string]any {
	t.Helper()
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(authJWKS(t, conf), &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys
}

// authAssertion returns header and claims of the assertion that a token request
// brought.
func authAssertion(t testing.TB, req mosaictest.Request) (header map[string]any, claims jwt.MapClaims) {
	t.Helper()
	claims = jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(req.Form.Get("client_assertion"), claims)
	if err != nil {
		t.Fatal("the form holds no assertion that can be parsed")
	}
	return token.Header, claims
}

// authBase returns a transport that reaches and trusts srv, by dial if it is
// given. It is as net/http has it without more being set.
func authBase(srv *mosaictest.Server, dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	tr := srv.Client().Transport.(*http.Transport)
	if dial == nil {
		dial = tr.DialContext
	}
	return &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: tr.TLSClientConfig.RootCAs}}
}

func authProtocols(http1, http2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetHTTP2(http2)
	return p
}

// authContext returns a context with an HTTP client over base.
func authContext(base http.RoundTripper) context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: base})
}

type authRoundTripper func(*http.Request) (*http.Response, error)

func (f authRoundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func authReply(status int, media, body string, date time.Time) *http.Response {
	return &http.Response{
		StatusCode: status,
		Status:     fmt.Sprintf("%d %s", status, http.StatusText(status)),
		Header:     http.Header{"Content-Type": {media}, "Date": {date.UTC().Format(http.TimeFormat)}},
		Body:       io.NopCloser(strings.NewReader(body)),
	}
}

// authGet returns an error unless a GET is answered with status.
func authGet(client *http.Client, target string, status int) error {
	res, err := client.Get(target)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != status {
		return fmt.Errorf("GET %s: got %s; want %d", target, res.Status, status)
	}
	return nil
}

// authFields returns the exported fields of a struct, in a form that can be
// compared: of what refers to something, only to what.
func authFields(of any) map[string]any {
	v := reflect.ValueOf(of).Elem()
	fields := make(map[string]any)
	for i := range v.NumField() {
		field := v.Field(i)
		if !v.Type().Field(i).IsExported() {
			continue
		}
		var value any
		switch field.Kind() {
		case reflect.Func, reflect.Map, reflect.Pointer, reflect.Slice:
			value = field.Pointer()
		default:
			value = field.Interface()
		}
		fields[v.Type().String()+"."+v.Type().Field(i).Name] = value
	}
	return fields
}

// authConn tells when it is closed.
type authConn struct {
	net.Conn
	closed func()
}

func (c *authConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// authTunnel is what a proxy does with CONNECT.
func authTunnel(w http.ResponseWriter, r *http.Request) {
	server, err := net.Dial("tcp", r.Host)
	if err != nil || r.Method != http.MethodConnect {
		http.Error(w, "no tunnel", http.StatusBadGateway)
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		server.Close()
		return
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	go func() {
		_, _ = io.Copy(client, server)
		client.Close()
	}()
}
