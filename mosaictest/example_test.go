package mosaictest_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// Give the code under test a Config and a context from the server. This code then gets its tokens from
// the server, and calls the server's APIs.
func Example() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	client := srv.Config().Client(srv.Context(context.Background()))

	res, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
	for _, r := range srv.TokenRequests() {
		fmt.Println(r.Status, r.Form.Get("resource"))
	}
	// Output: 200 https://risk.identity.security
}

// Most tests call Start, which also closes the server. Here the first token request fails, and the
// client tries it again.
func ExampleStart() {
	_ = func(t *testing.T) {
		srv := mosaictest.Start(t)
		srv.FailNext(1, mosaictest.Fault{Status: http.StatusServiceUnavailable})
		client := srv.Config().Client(srv.Context(t.Context()))
		res, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
	}
}

// If the code under test reads the response of an API, set a handler that sends such a response.
func ExampleServer_Handle() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.Handle("GET /cis/v1/users/{id}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"user_id":%q}`, r.PathValue("id"))
	}))

	client := srv.Config().Client(srv.Context(context.Background()))
	res, err := client.Get(srv.Endpoint().URL("/cis/v1/users/17"))
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(os.Stdout, res.Body)
	// Output: {"user_id":"17"}
}

// To simulate the outage of an API, set a Fault as its handler, and later the former handler again.
func ExampleFault() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	client := srv.Config().Client(srv.Context(context.Background()))
	works := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "[]") })

	for _, answer := range []http.Handler{
		works,
		mosaictest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}, Body: "too many"},
		mosaictest.MessageError(http.StatusForbidden, "a role is missing"),
		mosaictest.Fault{}, // breaks the connection
		works,
	} {
		srv.Handle("GET /cis/v1/users", answer)
		res, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
		if err != nil {
			fmt.Println("the connection broke")
			continue
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Println(res.StatusCode, string(body))
	}
	// Output:
	// 200 []
	// 429 too many
	// 403 {"error_code":403,"message":"a role is missing"}
	// the connection broke
	// 200 []
}

// To simulate an outage of the token endpoint, call Fail, and call Heal when the outage is to end.
func ExampleServer_Fail() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf, ctx := srv.Config(), srv.Context(context.Background())

	srv.Fail(mosaictest.Fault{Status: http.StatusForbidden, Body: "<html>"})
	_, err := conf.Token(ctx)
	fmt.Println(err != nil)

	srv.Heal()
	_, err = conf.Token(ctx)
	fmt.Println(err != nil)
	// Output:
	// true
	// false
}

// OAuthError makes the token endpoint refuse a request with an error code that the test chooses.
func ExampleOAuthError() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.FailNext(1, mosaictest.OAuthError(http.StatusBadRequest, "unauthorized_client", "the application is disabled"))

	_, err := srv.Config().Token(srv.Context(context.Background()))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		fmt.Println(refused.ErrorCode, "-", refused.ErrorDescription)
	}
	// Output: unauthorized_client - the application is disabled
}

// MessageError makes the token endpoint refuse a request with the JSON object that Mosaic's APIs use.
func ExampleMessageError() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.FailNext(1, mosaictest.MessageError(http.StatusBadRequest, []string{"client_id is required"}))

	_, err := srv.Config().Token(srv.Context(context.Background()))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		fmt.Println(string(refused.Body))
	}
	// Output: {"message":"client_id is required"}
}

// This example rotates a client secret in four steps while the program runs. The program reads the
// secret from a file, so it gets a token after each step.
func ExampleServer_AddSecret() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "secret")

	conf := srv.Config()
	first, second := conf.ClientSecret, "the second secret"
	conf.ClientSecret, conf.GetCredentials = "", mosaic.Files{ClientSecret: file}.Credentials
	for _, step := range []func() error{
		func() error { return os.WriteFile(file, []byte(first), 0o600) },
		func() error { srv.AddSecret(second); return nil },
		func() error { return os.WriteFile(file, []byte(second), 0o600) },
		func() error { srv.RevokeSecret(first); return nil },
	} {
		if err := step(); err != nil {
			log.Fatal(err)
		}
		if _, err := conf.Token(srv.Context(context.Background())); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(len(srv.TokenRequests()), "tokens")
	// Output: 4 tokens
}

// If a secret is revoked before the code under test uses another secret, its token requests are
// refused.
func ExampleServer_RevokeSecret() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	conf := srv.Config()
	srv.AddSecret("the second secret")
	srv.RevokeSecret(conf.ClientSecret)

	_, err := conf.Token(srv.Context(context.Background()))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		fmt.Println(refused.ErrorCode)
	}
	// Output: invalid_client
}

// If the code under test serves several tenants, register a client for each tenant.
func ExampleServer_RegisterSecret() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	for id, secret := range map[string]string{"acme": "secret of acme", "globex": "secret of globex"} {
		srv.RegisterSecret(id, secret)
		conf := &mosaic.Config{ClientID: id, ClientSecret: secret, Endpoint: srv.Endpoint()}
		tok, err := conf.Token(srv.Context(context.Background()))
		if err != nil {
			log.Fatal(err)
		}
		claims, err := mosaic.ParseClaims(tok)
		fmt.Println(claims.ClientID, err)
	}
	// Unordered output:
	// acme <nil>
	// globex <nil>
}

// If the client authenticates with a private key (private_key_jwt), register its JWK Set.
func ExampleServer_RegisterKey() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	conf := &mosaic.Config{ClientID: "acme", PrivateKey: key, Endpoint: srv.Endpoint()}
	jwks, err := conf.JWKS()
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterKey(conf.ClientID, jwks)

	_, err = conf.Token(srv.Context(context.Background()))
	fmt.Println(err)
	// Output: <nil>
}

// A server that follows FAPI 2.0 Final refuses an assertion unless its audience is the issuer. The
// client must therefore set AssertionAudience.
func ExampleServer_AcceptIssuerOnly() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.AcceptIssuerOnly()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	conf := &mosaic.Config{ClientID: "acme", PrivateKey: key, Endpoint: srv.Endpoint()}
	jwks, err := conf.JWKS()
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterKey(conf.ClientID, jwks)

	for _, conf.AssertionAudience = range []string{"", string(srv.Endpoint())} {
		_, err = conf.Token(srv.Context(context.Background()))
		fmt.Println(err == nil)
	}
	// Output:
	// false
	// true
}

// If the client authenticates with a self-signed certificate, register the certificate. Here, the
// tokens are also bound to the certificate.
func ExampleServer_RegisterCertificate() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	cert, err := tls.LoadX509KeyPair("testdata/client.crt", "testdata/client.key")
	if err != nil {
		log.Fatal(err)
	}
	srv.RegisterCertificate("acme", cert.Leaf)
	srv.BindTokens(true)

	conf := &mosaic.Config{ClientID: "acme", Certificate: &cert, Endpoint: srv.Endpoint()}
	client := conf.Client(srv.Context(context.Background()))
	res, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
}

// If the client authenticates with a certificate that a CA has issued, register the CA and the
// certificate's subject.
func ExampleServer_RegisterCA() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	ca, err := os.ReadFile("testdata/ca.crt")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	srv.RegisterCA("acme", roots, "CN=acme")
}

// If a service is not configured for the application in Mosaic, token requests for it are refused.
func ExampleServer_RemoveResource() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.RemoveResource(mosaic.FraudPrevention)

	client := srv.Config().Client(srv.Context(context.Background()))
	_, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		fmt.Println(refused.ErrorCode)
	}
	// Output: invalid_target
}

// If the code under test reads the claims of its token, set the claims that the test needs.
func ExampleServer_SetClaims() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.SetClaims(func(claims map[string]any) {
		claims["ts_permissions"] = []string{"read:user", "write:user"}
	})

	tok, err := srv.Config().Token(srv.Context(context.Background()))
	if err != nil {
		log.Fatal(err)
	}
	claims, err := mosaic.ParseClaims(tok)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(claims.TSPermissions)
	// Output: [read:user write:user]
}

// If a token is revoked before it expires, API calls with it are refused.
func ExampleServer_RevokeToken() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	src := srv.Config().TokenSource(srv.Context(context.Background()))
	tok, err := src.Token()
	if err != nil {
		log.Fatal(err)
	}
	srv.RevokeToken(tok)

	client := oauth2.NewClient(srv.Context(context.Background()), src)
	res, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
	fmt.Println(res.Status)
	// Output: 401 Unauthorized
}

// If the code under test has a hard-coded region, ServeAs makes the server answer for that region's
// host.
func ExampleServer_ServeAs() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	srv.ServeAs(string(mosaic.EU))

	conf := srv.Config()
	conf.Endpoint = mosaic.EU
	client := conf.Client(srv.Context(context.Background()))
	res, err := client.Get("https://api.eu.transmitsecurity.io/cis/v1/users")
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
	fmt.Println(res.Status, srv.APIRequests()[0].Host)
	// Output: 200 OK api.eu.transmitsecurity.io
}

// If the code under test runs in another process, write the server's CA certificate to a file. On
// Linux, for example, a Go program trusts the certificates in the file that SSL_CERT_FILE names.
func ExampleServer_Certificate() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(os.TempDir(), "mosaic.pem"), text, 0o600); err != nil {
		log.Fatal(err)
	}
}

// If a test counts requests, call ForgetRequests after the preparation, so that only later requests
// are counted.
func ExampleServer_ForgetRequests() {
	srv := mosaictest.NewServer()
	defer srv.Close()
	src := srv.Config().TokenSource(srv.Context(context.Background()))
	if _, err := src.Token(); err != nil {
		log.Fatal(err)
	}
	srv.ForgetRequests()

	if _, err := src.Token(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(srv.TokenRequests()), "token requests")
	// Output: 0 token requests
}
