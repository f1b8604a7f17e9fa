package behaviour_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
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

// A code is the error of a KMS or a vault.
type code int

func (c code) Error() string { return fmt.Sprintf("code\n%d", int(c)) }

// failures are those of foreign code, each with a word of the error.
var failures = []struct {
	name   string
	fail   func() error
	word   string
	logged bool // a stack
}{
	{"an error", func() error { return code(7) }, "code 7", false},
	{"a vault's refusal", func() error {
		return errors.Join(&oauth2.RetrieveError{ErrorCode: "invalid_client", Response: new(http.Response)}, code(7))
	}, "code 7", false},
	{"a KMS's refusal", func() error { // as the AWS SDK words it
		return errors.New("operation error KMS: Sign, https response error StatusCode: 400, RequestID: 0f3a5b1c-77aa-4f0e-9a4a-2f9d1f0e7b10, AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/payments-prod/i-0abc123def4567890 is not authorized to perform: kms:Sign on resource: arn:aws:kms:eu-west-1:123456789012:key/1")
	}, "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/payments-prod", false},
	{"a deadline", func() error { return errors.Join(context.DeadlineExceeded, code(7)) }, "deadline exceeded code 7", false},
	{"a cancellation", func() error { return errors.Join(context.Canceled, code(7)) }, "canceled code 7", false},
	{"an error whose method panics", func() error { return (*brokenError)(nil) }, "method panicked", false},
	{"a panic", func() error { panic("open sesame") }, "panicked", true},
	{"Goexit", func() error { runtime.Goexit(); return nil }, "Goexit", false},
	{"a hang", func() error { time.Sleep(hang); return nil }, "did not return in time", false},
}

// hang is the length of a call: it has to end within its bubble.
const hang = 24 * time.Hour

// A brokenError cannot be read if it is nil.
type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text }

// wantFailure checks the error of foreign code on the caller's side.
func wantFailure(t testing.TB, who string, err error, words ...string) {
	t.Helper()
	if err == nil || !kit.IsLine(err) || strings.Contains(err.Error(), "sesame") {
		t.Errorf("%s: got %v; want one line without the panic's value", who, err)
	}
	for _, word := range words {
		if !strings.Contains(fmt.Sprint(err), word) {
			t.Errorf("%s: got %v; want %s in it", who, err, word)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("%s: %v passes for the end of the caller's context", who, err)
	}
	if reply := (*oauth2.RetrieveError)(nil); errors.As(err, &reply) {
		t.Errorf("%s: %v passes for Mosaic's", who, err)
	}
	passedOn := !strings.Contains(fmt.Sprint(err), "sign handshake") // by crypto/tls, which passes on the text only
	if c := code(0); passedOn && strings.Contains(fmt.Sprint(err), "code") && (!errors.As(err, &c) || c != 7 || !errors.Is(err, code(7))) {
		t.Errorf("%s: errors.As does not find the foreign error in %v", who, err)
	}
}

// A vault returns credentials, others at another time. It is safe for concurrent use.
type vault struct {
	answer atomic.Pointer[func(context.Context) (mosaic.Credentials, error)]
	calls  atomic.Int32
}

func newVault(creds mosaic.Credentials) *vault {
	v := new(vault)
	v.returns(creds)
	return v
}

// answers has f called from now on.
func (v *vault) answers(f func(context.Context) (mosaic.Credentials, error)) { v.answer.Store(&f) }

func (v *vault) returns(creds mosaic.Credentials) {
	v.answers(func(context.Context) (mosaic.Credentials, error) { return creds, nil })
}

func (v *vault) get(ctx context.Context) (mosaic.Credentials, error) {
	v.calls.Add(1)
	return (*v.answer.Load())(ctx)
}

// config returns the Config of srv's client acme with the vault's credentials.
func (v *vault) config(srv *mosaictest.Server) *mosaic.Config {
	return &mosaic.Config{ClientID: "acme", Endpoint: srv.Endpoint(), GetCredentials: v.get}
}

// The secret is in no error and no record.
const secret = "Zq8-a-secret-of-acme"

// secretVault returns a vault with the secret of srv's client acme.
func secretVault(srv *mosaictest.Server) *vault {
	srv.RegisterSecret("acme", secret)
	return newVault(mosaic.Credentials{ClientSecret: secret})
}

func within(ctx context.Context, srv *mosaictest.Server, timeout time.Duration) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: srv.Client().Transport, Timeout: timeout})
}

func TestGetCredentialsIsAskedOnceForEachAttempt(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		kit.KeyClient(t, srv, kit.EC())
		v := newVault(mosaic.Credentials{PrivateKey: kit.EC()})
		conf, ctx := v.config(srv), srv.Context(t.Context())
		want := func(when string, least, most int) {
			t.Helper()
			if got := int(v.calls.Swap(0)); got < least || got > most || len(srv.TokenRequests()) != got {
				t.Errorf("%s: got %d calls for %d requests; want %d to %d for as many", when, got, len(srv.TokenRequests()), least, most)
			}
			srv.ForgetRequests()
		}
		if err := conf.Validate(); err != nil {
			t.Error(err)
		}
		conf.Client(ctx)
		src := conf.TokenSource(ctx)
		want("before a call", 0, 0)
		kit.Promptly(t, src)
		kit.Promptly(t, src)
		want("one token", 1, 1)
		srv.FailNext(2, mosaictest.Fault{})
		if _, err := conf.Token(ctx); err != nil {
			t.Error(err)
		}
		want("three attempts", 3, 3)
		srv.SetSkew(time.Hour)
		if _, err := conf.Token(ctx); err != nil {
			t.Error(err)
		}
		want("a second request for the clock's sake", 2, 2)
		srv.SetSkew(0)
		kit.Every(time.Minute, 10*time.Hour, func() { kit.Promptly(t, src) })
		want("ten hours", 14, 17)
	})
}

func TestTheContextOfGetCredentialsIsItsOwn(t *testing.T) {
	type tenant struct{}
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		v := secretVault(srv)
		asked := make(chan context.Context, 4)
		v.answers(func(ctx context.Context) (mosaic.Credentials, error) {
			end, ok := ctx.Deadline()
			if left := time.Until(end); !ok || left <= 0 || left > 10*time.Second || ctx.Err() != nil || ctx.Value(tenant{}) != nil || ctx.Value(oauth2.HTTPClient) != nil {
				t.Errorf("it has a deadline: %t, in %s, error %v, and a caller's value: %v", ok, left, ctx.Err(), ctx.Value(tenant{}))
			}
			asked <- ctx
			return mosaic.Credentials{ClientSecret: secret}, nil
		})
		conf, ctx := v.config(srv), context.WithValue(srv.Context(t.Context()), tenant{}, "acme")
		if _, err := conf.Token(ctx); err != nil {
			t.Error(err)
		}
		if _, err := conf.TokenSource(ctx).TokenContext(ctx); err != nil {
			t.Error(err)
		}
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.Endpoint().URL("/cis/x"), nil)
		res, err := conf.Client(ctx).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		synctest.Wait()
		for i := range 3 {
			if ctx := <-asked; ctx.Err() == nil {
				t.Errorf("call %d: its context has not ended with the attempt", i)
			}
		}
	})
}

func TestTheContextOfGetCredentialsEndsWithTheAttempt(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"canceled by the caller": 0, "after half of the HTTP client's Timeout": 2 * time.Second} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			v, begun := new(vault), time.Now()
			v.answers(func(ctx context.Context) (mosaic.Credentials, error) {
				<-ctx.Done()
				if took := time.Since(begun); v.calls.Load() == 1 && took != time.Second {
					t.Errorf("%s: it ended after %s; want 1s", name, took)
				}
				return mosaic.Credentials{}, ctx.Err()
			})
			ctx, cancel := context.WithCancel(within(t.Context(), srv, timeout))
			defer cancel()
			if timeout == 0 {
				time.AfterFunc(time.Second, cancel)
			}
			_, err := v.config(srv).Token(ctx)
			if timeout > 0 {
				wantFailure(t, name, err, "GetCredentials")
			} else if !errors.Is(err, context.Canceled) || !kit.IsLine(err) {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
}

const newSecret = "Wk4-the-next-secret"

type misfortune struct {
	name string
	get  func(context.Context) (mosaic.Credentials, error)
	word string // of the error
}

// misfortunes are calls of GetCredentials without a usable result.
func misfortunes(t testing.TB) (all []misfortune) {
	for _, f := range failures {
		all = append(all, misfortune{f.name, func(context.Context) (mosaic.Credentials, error) { return mosaic.Credentials{}, f.fail() }, f.word})
	}
	returned := func(name, word string, c mosaic.Credentials) {
		all = append(all, misfortune{name, func(context.Context) (mosaic.Credentials, error) { return c, nil }, word})
	}
	certificate := func(key crypto.Signer, change ...func(*x509.Certificate)) *tls.Certificate {
		cert := kit.Certificate(t, "acme", kit.EC(), nil, change...)
		cert.PrivateKey = key
		return cert
	}
	returned("nothing", "ClientSecret", mosaic.Credentials{})
	returned("a secret and a key", "exclude", mosaic.Credentials{ClientSecret: newSecret, PrivateKey: kit.EC()})
	returned("a line end in the secret", "ClientSecret", mosaic.Credentials{ClientSecret: newSecret + "\n"})
	returned("a wrong SigningAlgorithm", "SigningAlgorithm", mosaic.Credentials{PrivateKey: kit.EC(), SigningAlgorithm: "RS256"})
	returned("a KeyID without a key", "KeyID", mosaic.Credentials{ClientSecret: newSecret, KeyID: "k"})
	returned("an expired certificate", "expired", mosaic.Credentials{Certificate: certificate(kit.EC(), func(c *x509.Certificate) { c.NotAfter = time.Unix(1, 0) })})
	returned("a certificate that is not valid yet", "not valid yet", mosaic.Credentials{Certificate: certificate(kit.EC(), func(c *x509.Certificate) { c.NotBefore = c.NotAfter.Add(-time.Hour) })})
	returned("a certificate with another's key", "match", mosaic.Credentials{Certificate: certificate(kit.Ed25519())})
	returned("a key whose Public panics", "broken", mosaic.Credentials{PrivateKey: &publicOnce{Signer: kit.EC(), later: func() { panic("open sesame") }}})
	returned("a key whose Public hangs", "in time", mosaic.Credentials{Certificate: certificate(&publicOnce{Signer: kit.EC(), later: func() { time.Sleep(hang) }})})
	all = append(all, misfortune{"an error that shows the earlier secret", func(context.Context) (mosaic.Credentials, error) {
		return mosaic.Credentials{}, errors.New(secret + " is too old")
	}, "is too old"})
	return append(all, misfortune{"an error that shows the secret returned beside it", func(context.Context) (mosaic.Credentials, error) {
		return mosaic.Credentials{ClientSecret: newSecret}, errors.New(newSecret + " is too old")
	}, "is too old"})
}

func TestWithEarlierCredentialsNobodyNotices(t *testing.T) {
	t.Parallel()
	for _, tt := range misfortunes(t) {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				var log kit.Log
				v := secretVault(srv)
				conf := v.config(srv)
				conf.Logger = log.Logger(slog.LevelInfo)
				src := conf.TokenSource(srv.Context(t.Context()))
				kit.Promptly(t, src)
				v.answers(tt.get)
				kit.Every(time.Minute, 10*time.Hour, func() { kit.Promptly(t, src) })
				const record = `level=WARN msg="mosaic: using earlier credentials" client_id=acme`
				if n := log.Count(record); n < 14 || n > 17 || log.Count(tt.word) < n {
					t.Errorf("%d records tell; want one for each token:\n%s", n, log.String())
				}
				seen := log.Take()
				for range 10 {
					tok, err := src.Token()
					if err != nil {
						t.Fatal(err)
					}
					src.Invalidate(tok)
				}
				synctest.Wait()
				if n := log.Count(record); n > 1 {
					t.Errorf("%d records in a minute; want one at most", n)
				}
				if seen += log.String(); strings.Contains(seen, newSecret) || strings.Contains(seen, secret) || strings.Contains(seen, "sesame") {
					t.Errorf("the log has a secret:\n%s", seen)
				}
				if got := kit.Statuses(srv.TokenRequests()); slices.Max(got) != http.StatusOK {
					t.Errorf("got answers %v; want no refusal", got)
				}
				time.Sleep(hang)
			})
		})
	}
}

func TestWithoutEarlierCredentialsTheAttemptFails(t *testing.T) {
	for _, tt := range misfortunes(t) {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				v := secretVault(srv)
				conf, ctx := v.config(srv), srv.Context(t.Context())
				src, client := conf.TokenSource(ctx), conf.Client(ctx)
				for who, token := range map[string]func() error{
					"Config":      func() error { _, err := conf.Token(ctx); return err },
					"TokenSource": func() error { _, err := src.Token(); return err },
					"Client":      func() error { return errors.Unwrap(kit.Fetch(client, srv.Endpoint().URL("/cis/x"), http.StatusOK)) },
				} {
					srv.ForgetRequests()
					v.calls.Store(0)
					v.answers(tt.get)
					begun := time.Now()
					err := token()
					wantFailure(t, who, err, "GetCredentials", tt.word)
					if strings.Contains(fmt.Sprint(err), newSecret) {
						t.Errorf("%s: a secret is in %v", who, err)
					}
					if n := v.calls.Load(); n != 3 || len(srv.TokenRequests()) != 0 || time.Since(begun) > 17*time.Second {
						t.Errorf("%s: it was asked %d times, in %s; want three attempts of five seconds, and pauses", who, n, time.Since(begun))
					}
					v.returns(mosaic.Credentials{ClientSecret: secret})
					if err := token(); err != nil {
						t.Errorf("%s: the next attempt: got %v; want a token", who, err)
					}
				}
				time.Sleep(hang)
			})
		})
	}
}

// Without an answer, a vault's client waits until its context ends. An attempt may have a few
// seconds only.
func TestAShortTimeoutLeavesTimeForEarlierCredentials(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 5 * time.Second, 0} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			v := secretVault(srv)
			src := v.config(srv).TokenSource(within(t.Context(), srv, timeout))
			kit.Promptly(t, src)
			v.answers(func(ctx context.Context) (mosaic.Credentials, error) {
				<-ctx.Done()
				return mosaic.Credentials{}, ctx.Err()
			})
			kit.Every(time.Minute, 10*time.Hour, func() { kit.Promptly(t, src) })
			v.returns(mosaic.Credentials{ClientSecret: secret})
			time.Sleep(time.Minute) // a call in flight ends
		})
	}
}

func TestACallOfGetCredentialsThatNeverReturnsEndsNothing(t *testing.T) {
	for _, hung := range []int{1, 4} {
		kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
			v, mended := secretVault(srv), make(chan struct{})
			v.answers(func(context.Context) (mosaic.Credentials, error) {
				if int(v.calls.Load()) <= hung {
					<-mended
				}
				return mosaic.Credentials{ClientSecret: secret}, nil
			})
			src := v.config(srv).TokenSource(srv.Context(t.Context()))
			before := kit.Goroutines(t)
			if _, err := src.Token(); (err == nil) != (hung == 1) {
				t.Errorf("%d calls hang: got %v", hung, err)
			}
			if hung == 1 {
				kit.Every(time.Minute, 10*time.Hour, func() { kit.Promptly(t, src) })
			} else {
				if _, err := src.Token(); err == nil {
					t.Error("four calls hang: got a token without credentials")
				}
				time.Sleep(10 * time.Second)
				begun := time.Now()
				_, err := src.Token()
				wantFailure(t, "beside four that hang", err, "GetCredentials")
				if took := time.Since(begun); took != 5*time.Second || v.calls.Load() != 4 {
					t.Errorf("beside four that hang an attempt waited for %s after %d calls", took, v.calls.Load())
				}
			}
			srv.Client().CloseIdleConnections()
			if n := kit.Goroutines(t) - before; n != hung {
				t.Errorf("%d calls hang, and cost %d goroutines", hung, n)
			}
			close(mended)
			time.Sleep(3 * time.Second)
			kit.Promptly(t, src)
		})
	}
}

// An HSM's session is closed and reopened: the same certificate comes with a new key object.
func TestAReopenedKeyOfACertificateIsUsed(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		cert := *kit.CertificateClient(t, srv, "acme").Certificate
		var session atomic.Int32
		var signed [2]atomic.Int32
		v := new(vault)
		v.answers(func(context.Context) (mosaic.Credentials, error) {
			cert, own := cert, session.Load()
			cert.PrivateKey = &kit.Signer{Signer: cert.PrivateKey.(crypto.Signer), Before: func() error {
				signed[own].Add(1)
				if own != session.Load() {
					return errors.New("the session is closed")
				}
				return nil
			}}
			return mosaic.Credentials{Certificate: &cert}, nil
		})
		base := reusing(srv)
		dialed, open := counting(base)
		conf := v.config(srv)
		conf.Hosts = []string{"api.example.com"}
		client := conf.Client(kit.Over(t.Context(), base))
		kit.Every(time.Minute, time.Hour, calling(t, client, srv, "/cis/x"))
		session.Add(1)
		kit.Every(time.Minute, time.Hour, calling(t, client, srv, "/cis/x"))
		if dialed.Load() != 1 || open.Load() != 1 {
			t.Errorf("%d connections were made, %d are open; want one clone's one", dialed.Load(), open.Load())
		}
		if err := kit.Fetch(client, "https://api.example.com/cis/x", http.StatusOK); err != nil { // without a TLS session to resume
			t.Error(err)
		}
		if a, b := signed[0].Load(), signed[1].Load(); a != 1 || b != 1 {
			t.Errorf("the keys signed %d and %d times; want once each", a, b)
		}
		client.CloseIdleConnections()
	})
}

func TestTheMethodMayChange(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		srv.BindTokens(true)
		cert := kit.Certificate(t, "acme", kit.EC(), nil)
		var log kit.Log
		v := secretVault(srv)
		conf := v.config(srv)
		conf.SigningAlgorithm, conf.AssertionAudience, conf.Logger = "PS256", "https://example.com", log.Logger(slog.LevelInfo)
		call := calling(t, conf.Client(kit.Over(t.Context(), reusing(srv))), srv, "/cis/x")
		for i, step := range []struct {
			creds             mosaic.Credentials
			path, alg, record string
		}{
			{mosaic.Credentials{ClientSecret: secret}, "/oidc/token", "", ""},
			{mosaic.Credentials{PrivateKey: kit.RSA(), KeyID: "k"}, "/oidc/token", "PS256", "method=private_key_jwt kid=k\n"},
			{mosaic.Credentials{PrivateKey: kit.EC(), SigningAlgorithm: "ES256", KeyID: "k", Certificate: cert}, "/oidc/token", "ES256", "method=private_key_jwt kid=k x5t=" + x5t(cert.Leaf) + "\n"},
			{mosaic.Credentials{Certificate: cert}, "/cis/oidc/token", "", "method=tls_client_auth x5t=" + x5t(cert.Leaf) + "\n"},
			{mosaic.Credentials{ClientSecret: secret, Certificate: cert}, "/oidc/token", "", "method=client_secret_post x5t=" + x5t(cert.Leaf) + "\n"},
		} {
			v.returns(step.creds)
			switch key := step.creds.PrivateKey; {
			case key != nil:
				srv.RegisterKey("acme", kit.JWKS(t, &mosaic.Config{ClientID: "acme", Endpoint: srv.Endpoint(), PrivateKey: key, KeyID: "k", SigningAlgorithm: step.alg}))
			case step.creds.ClientSecret != "":
				srv.RegisterSecret("acme", secret)
			default:
				srv.RegisterCertificate("acme", cert.Leaf)
			}
			log.Take()
			srv.ForgetRequests()
			kit.Every(time.Minute, 42*time.Minute, call)
			synctest.Wait()
			requests := srv.TokenRequests()
			if n := len(requests); n < 1 || n > 2 {
				t.Fatalf("step %d: got %d requests; want the token in service to stay in service", i, n)
			}
			r := requests[0]
			if r.RequestURI != step.path || r.Form.Has("client_assertion") != (step.alg != "") || (r.Certificate != nil) != (step.creds.Certificate != nil) {
				t.Errorf("step %d: got a request to %s; want %s", i, r.RequestURI, step.path)
			} else if step.alg != "" {
				if header, claims := kit.Assertion(t, r); header["alg"] != step.alg || claims["aud"] != "https://example.com" {
					t.Errorf("step %d: got alg %v and aud %v; want the Config's unless the Credentials have one", i, header["alg"], claims["aud"])
				}
			}
			if got := log.String(); strings.Contains(got, secret) || log.Count("mosaic: credentials changed") != min(i, 1) || !strings.Contains(got, step.record) {
				t.Errorf("step %d: the log does not tell of the change by %s:\n%s", i, step.record, got)
			}
		}
		time.Sleep(time.Hour)
	})
}

func TestGetCredentialsOverATransportThatCannotBeCloned(t *testing.T) {
	for name, base := range unclonable {
		for want, creds := range map[string]mosaic.Credentials{"TLSClientAuth": {}, "drop Certificate": {ClientSecret: secret}} {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				creds.Certificate = kit.Certificate(t, "acme", kit.EC(), nil)
				_, err := newVault(creds).config(srv).Token(kit.Over(t.Context(), base))
				wantFailure(t, name, err, "GetCredentials", "cannot present Certificate", want)

				v := secretVault(srv)
				src := v.config(srv).TokenSource(kit.Over(t.Context(), kit.RoundTripper(srv.Client().Transport.RoundTrip)))
				kit.Promptly(t, src)
				v.returns(creds)
				kit.Every(time.Minute, 2*time.Hour, func() { kit.Promptly(t, src) }) // with the earlier secret
			})
		}
	}
}

func TestJWKSAsksForTheCredentials(t *testing.T) {
	v := newVault(mosaic.Credentials{PrivateKey: kit.EC(), KeyID: "now"})
	conf := &mosaic.Config{ClientID: "acme", Endpoint: mosaic.EU, GetCredentials: v.get}
	if keys := kit.JWKs(t, kit.JWKS(t, conf, mosaic.Credentials{PrivateKey: kit.Ed25519(), KeyID: "next"})); len(keys) != 2 || keys[0]["kid"] != "now" || keys[1]["kid"] != "next" {
		t.Errorf("got %v; want the key returned, then the next", keys)
	}
	for _, tt := range misfortunes(t) {
		synctest.Test(t, func(t *testing.T) {
			v.answers(tt.get)
			begun := time.Now()
			_, err := conf.JWKS()
			wantFailure(t, "JWKS", err, "GetCredentials", tt.word)
			if took := time.Since(begun); took != 0 && took != 10*time.Second || strings.Contains(fmt.Sprint(err), newSecret) {
				t.Errorf("%s: got %v after %s; want it at once, or after ten seconds", tt.name, err, took)
			}
			time.Sleep(hang)
		})
	}
}
