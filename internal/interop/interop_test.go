// Package interop tests package mosaic against authorization servers of others:
//
//   - fosite (github.com/ory/fosite), the library behind Ory Hydra: client_secret_post, and
//     private_key_jwt with RS256, PS256 and ES256.
//   - oidc-provider (npm), certified for FAPI 2.0: private_key_jwt with these and EdDSA,
//     tls_client_auth, self_signed_tls_client_auth, certificate-bound tokens, the resource
//     parameter, and the FAPI 2.0 profile. It needs node and npm; if they are missing, its tests
//     are skipped.
//
// The tests prove:
//
//   - For each method the server issues tokens, and an API accepts them. fosite's introspection
//     verifies them, or the npm package jose, with their audience and their certificate.
//   - For each method the credentials change while calls go on. The server accepts both, then only
//     the new ones, and no call fails. Under tls_client_auth it goes on accepting both, as they have
//     one subject.
//   - Config.JWKS registers keys and certificates. Each kid is the RFC 7638 thumbprint that go-jose
//     computes. Old and new key are of one type, so fosite has to find a key by its kid.
//   - Each token request has an assertion of its own. The server refuses one that is sent again.
//   - The API refuses a bound token over a connection of another certificate, or of none.
//   - The FAPI 2.0 profile accepts the issuer as an assertion's audience, and nothing else.
//
// Package network, below this folder, has tests with other people's fronts and proxies. The folder
// is a module of its own, so that users of package mosaic get none of its dependencies.
package interop

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
)

func TestMain(m *testing.M) {
	flag.Set("test.parallel", "16") // the tests wait for renewals, not for a processor
	os.Exit(m.Run())
}

// A server is an authorization server with an API beside it. Its tokens live for a few seconds, so
// that a test sees several renewals.
type server struct {
	endpoint mosaic.Endpoint
	http     *http.Transport          // trusts the server
	put      func(testing.TB, client) // replaces a client's registration
}

// A client is a client's metadata (RFC 7591 §2, RFC 8705 §2.1.2 and §3.4).
type client struct {
	ID            string          `json:"client_id"`
	Method        string          `json:"token_endpoint_auth_method"`
	Secret        string          `json:"client_secret,omitempty"`
	EarlierSecret string          `json:"-"` // metadata has one secret
	JWKS          json.RawMessage `json:"jwks,omitempty"`
	Subject       string          `json:"tls_client_auth_subject_dn,omitempty"`
	Bound         bool            `json:"tls_client_certificate_bound_access_tokens"`
	GrantTypes    []string        `json:"grant_types"`
	RedirectURIs  []string        `json:"redirect_uris"`
	ResponseTypes []string        `json:"response_types"`
}

// A rotation replaces old credentials by new ones of the same method.
type rotation struct {
	method   string
	old, new mosaic.Credentials
}

// config returns the Config of t's client.
func (s *server) config(t testing.TB, creds mosaic.Credentials) *mosaic.Config {
	return &mosaic.Config{
		ClientID:         t.Name(),
		ClientSecret:     creds.ClientSecret,
		PrivateKey:       creds.PrivateKey,
		SigningAlgorithm: creds.SigningAlgorithm,
		Certificate:      creds.Certificate,
		Endpoint:         s.endpoint,
	}
}

// register makes the server accept creds from t's client, and no others.
func (s *server) register(t testing.TB, method string, creds ...mosaic.Credentials) {
	t.Helper()
	first, last := creds[0], creds[len(creds)-1]
	c := client{
		ID:            t.Name(),
		Method:        method,
		Bound:         last.Certificate != nil,
		GrantTypes:    []string{"client_credentials"},
		RedirectURIs:  []string{},
		ResponseTypes: []string{},
	}
	switch method {
	case "client_secret_post", "client_secret_basic":
		c.Secret, c.EarlierSecret = last.ClientSecret, first.ClientSecret
	case "tls_client_auth":
		c.Subject = last.Certificate.Leaf.Subject.String()
	default:
		set, err := s.config(t, first).JWKS(creds[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		checkKeyIDs(t, set)
		c.JWKS = set
	}
	s.put(t, c)
}

func checkKeyIDs(t testing.TB, set []byte) {
	t.Helper()
	var parsed jose.JSONWebKeySet
	if err := json.Unmarshal(set, &parsed); err != nil {
		t.Fatal(err)
	}
	for _, key := range parsed.Keys {
		sum, err := key.Thumbprint(crypto.SHA256)
		if want := base64.RawURLEncoding.EncodeToString(sum); err != nil || key.KeyID != want {
			t.Errorf("the kid is %q; want the thumbprint %q (%v)", key.KeyID, want, err)
		}
	}
}

// testRotation calls the API while the credentials change. It waits for the records that an operator
// would wait for.
func (s *server) testRotation(t *testing.T, r rotation) {
	var log kit.Log
	var current atomic.Pointer[mosaic.Credentials]
	conf := s.config(t, mosaic.Credentials{})
	conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) { return *current.Load(), nil }
	conf.Logger = log.Logger(slog.LevelDebug)
	api := conf.Client(kit.Over(t.Context(), s.http))

	call := func() {
		for _, path := range []string{"/cis/v1/users", "/risk/v1/recommendation"} {
			if status, text := send(t, api, "GET", s.endpoint.URL(path), ""); status != http.StatusOK {
				t.Fatalf("%s answers %d: %s", path, status, text)
			}
		}
	}
	callUntil := func(record string, count int) {
		for range 600 {
			call()
			if log.Count(record) >= count {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("there is no %q:\n%s", record, log.String())
	}

	s.register(t, r.method, r.old)
	current.Store(&r.old)
	call()
	s.register(t, r.method, r.old, r.new)
	current.Store(&r.new)
	callUntil("mosaic: credentials changed", 1)
	s.register(t, r.method, r.new)
	callUntil("mosaic: token obtained", log.Count("mosaic: token obtained")+3) // two requests may be in flight

	if r.method == "tls_client_auth" {
		return // the server knows the subject only, and both have the same
	}
	_, err := s.config(t, r.old).Token(kit.Over(t.Context(), s.http))
	if refused := new(oauth2.RetrieveError); !errors.As(err, &refused) {
		t.Errorf("with the old credentials the error is %v; want the server to refuse", err)
	}
}

// testReplay sends two token requests, and then each of them again.
func (s *server) testReplay(t *testing.T, creds mosaic.Credentials) {
	s.register(t, "private_key_jwt", creds)
	var forms []string
	ctx := kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		form, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		forms = append(forms, string(form))
		return s.http.RoundTrip(req)
	}))
	for range 2 {
		if _, err := s.config(t, creds).Token(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, form := range forms {
		status, text := send(t, &http.Client{Transport: s.http}, "POST", s.endpoint.TokenURL(), form)
		if status < 400 || status >= 500 {
			t.Errorf("an assertion sent again gets %d: %s; want it refused", status, text)
		}
	}
}

// testBinding sends the token of the old certificate over connections of either, and of none.
func (s *server) testBinding(t *testing.T, r rotation) {
	s.register(t, r.method, r.old)
	tok, err := s.config(t, r.old).Token(kit.Over(t.Context(), s.http))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		cert *tls.Certificate
		want int
	}{
		{"its own certificate", r.old.Certificate, http.StatusOK},
		{"another certificate", r.new.Certificate, http.StatusUnauthorized},
		{"no certificate", new(tls.Certificate), http.StatusUnauthorized},
	} {
		transport := s.http.Clone()
		defer transport.CloseIdleConnections()
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return row.cert, nil }
		api := &http.Client{Transport: &oauth2.Transport{Base: transport, Source: oauth2.StaticTokenSource(tok)}}
		if status, text := send(t, api, "GET", s.endpoint.URL("/cis/v1/users"), ""); status != row.want {
			t.Errorf("over a connection of %s the API answers %d: %s; want %d", row.name, status, text, row.want)
		}
	}
}

// testRefusal requests a token, which the server is to refuse with code.
func (s *server) testRefusal(t *testing.T, conf *mosaic.Config, code string) error {
	t.Helper()
	_, err := conf.Token(kit.Over(t.Context(), s.http))
	if refused := new(oauth2.RetrieveError); !errors.As(err, &refused) || refused.ErrorCode != code {
		t.Errorf("got %v; want the server to refuse with %s", err, code)
	}
	return err
}

func send(t testing.TB, c *http.Client, method, url, body string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func newRSA(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keyRotation replaces a key by one of the same type.
func keyRotation(algorithm string, old, new crypto.Signer) rotation {
	return rotation{
		"private_key_jwt",
		mosaic.Credentials{PrivateKey: old, SigningAlgorithm: algorithm},
		mosaic.Credentials{PrivateKey: new, SigningAlgorithm: algorithm},
	}
}

var secretRotation = rotation{
	"client_secret_post",
	mosaic.Credentials{ClientSecret: "the secret of last year"},
	mosaic.Credentials{ClientSecret: "the secret of this year"},
}
