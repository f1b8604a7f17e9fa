// Package mosaictest simulates Transmit Security's Mosaic, its token endpoint and its APIs, for
// tests of code that calls Mosaic.
//
//	srv := mosaictest.Start(t)
//	client := srv.Config().Client(srv.Context(t.Context()))
//	res, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
//
// The server is as strict as Mosaic's documentation and the RFCs. It refuses a wrong secret, a
// resource not configured for the application, an expired token, and another service's token. It
// protects nothing: do not use it outside of tests.
//
// # Servers
//
// Most tests use [Start], which starts a server on the loopback interface and closes it when the
// test ends. A test in a testing/synctest bubble uses [NewInMemory]. There, hours pass instantly, and
// synctest.Wait waits for background renewals and log records.
//
// [Server.Config] and [Server.Context] connect package mosaic with the server. Code with a
// hard-coded host needs [Server.ServeAs]; code that reads a CA file needs [Server.Certificate].
//
// # APIs
//
// The server has a token endpoint (/oidc/token and /cis/oidc/token) and signing keys
// (/cis/oidc/jwks). Every other path is an API, and needs a valid token for its service. Its
// response is a JSON object with the request's method and path and the token's audience, client_id,
// scope, jti and exp. [Server.Handle] sets another response. [Server.TokenRequests] and
// [Server.APIRequests] return the requests received.
//
// # Faults
//
// A [Fault] is a response chosen by the test. Use [Server.Fail] or [Server.FailNext] for the token
// endpoint and [Server.Handle] for an API.
//
// These methods cause other failures: [Server.SetLatency], [Server.SetSkew], [Server.Revoke],
// [Server.RevokeToken], [Server.RevokeSecret], [Server.RemoveResource], [Server.SetClaims] and
// [Server.AcceptIssuerOnly]. A mistake in the test itself, such as an empty secret, causes a panic:
// see [Server].
//
// # FIPS 140-3
//
// The server works in Go's FIPS mode. But since Go 1.26, crypto/rand may panic in that mode if it is
// called in a testing/synctest bubble ("failed to obtain initial entropy"), because it measures the
// time that passes, and in a bubble no time passes. Use [Start] and no bubble for a test that must
// run in FIPS mode. Skip all other tests there, as the file below does, or run them with
// GODEBUG=fips140=off.
//
// # A whole test file
//
//	package shop
//
//	import (
//		"crypto/fips140"
//		"io"
//		"net/http"
//		"os"
//		"path/filepath"
//		"testing"
//		"testing/synctest"
//		"time"
//
//		"example.com/mosaic"
//		"example.com/mosaic/mosaictest"
//	)
//
//	// recommend is the code under test. Without a recommendation it says CHALLENGE.
//	func recommend(client *http.Client, base mosaic.Endpoint) string {
//		res, err := client.Get(base.URL("/risk/v1/recommendation"))
//		if err != nil {
//			return "CHALLENGE"
//		}
//		defer res.Body.Close()
//		body, err := io.ReadAll(res.Body)
//		if err != nil || res.StatusCode != http.StatusOK {
//			return "CHALLENGE"
//		}
//		return string(body)
//	}
//
//	// allow stands in for Fraud Prevention.
//	var allow = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
//		io.WriteString(w, "ALLOW")
//	})
//
//	// withMosaic runs a test in a bubble: an hour takes no time.
//	func withMosaic(t *testing.T, test func(t *testing.T, srv *mosaictest.Server)) {
//		if fips140.Enabled() {
//			t.Skip("in FIPS mode crypto/rand panics in a bubble")
//		}
//		synctest.Test(t, func(t *testing.T) {
//			srv := mosaictest.NewInMemory()
//			defer srv.Close()
//			srv.Handle("/risk/", allow)
//			test(t, srv)
//		})
//	}
//
//	func want(t *testing.T, client *http.Client, srv *mosaictest.Server, want string) {
//		t.Helper()
//		if got := recommend(client, srv.Endpoint()); got != want {
//			t.Errorf("got %s; want %s", got, want)
//		}
//	}
//
//	func TestRecommendation(t *testing.T) {
//		withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
//			client := srv.Config().Client(srv.Context(t.Context()))
//			want(t, client, srv, "ALLOW")
//			if got := srv.APIRequests()[0].RequestURI; got != "/risk/v1/recommendation" {
//				t.Errorf("called %s", got)
//			}
//		})
//	}
//
//	func TestOutage(t *testing.T) {
//		withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
//			client := srv.Config().Client(srv.Context(t.Context()))
//			client.Timeout = 5 * time.Second
//
//			srv.Fail(mosaictest.Fault{Status: http.StatusServiceUnavailable}) // no tokens
//			want(t, client, srv, "CHALLENGE")
//			srv.Heal()
//			want(t, client, srv, "ALLOW")
//
//			srv.Handle("/risk/", mosaictest.Fault{Hang: true}) // no Fraud Prevention
//			want(t, client, srv, "CHALLENGE")
//			srv.Handle("/risk/", allow)
//			want(t, client, srv, "ALLOW")
//		})
//	}
//
//	func TestRotation(t *testing.T) {
//		withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
//			conf, second := srv.Config(), "the second secret"
//			first := conf.ClientSecret
//			file := filepath.Join(t.TempDir(), "secret")
//			save := func(secret string) {
//				if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
//					t.Fatal(err)
//				}
//			}
//			conf.ClientSecret, conf.GetCredentials = "", mosaic.Files{ClientSecret: file}.Credentials
//			client := conf.Client(srv.Context(t.Context()))
//
//			for _, step := range []func(){
//				func() { save(first) },
//				func() { srv.AddSecret(second) },
//				func() { save(second) },
//				func() { srv.RevokeSecret(first) },
//			} {
//				step()
//				want(t, client, srv, "ALLOW")
//				time.Sleep(2 * time.Hour) // the token expires
//			}
//		})
//	}
//
//	func TestRevokedToken(t *testing.T) {
//		withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
//			client := srv.Config().Client(srv.Context(t.Context()))
//			want(t, client, srv, "ALLOW")
//			time.Sleep(time.Minute) // a token younger than ten seconds is not renewed
//			srv.Revoke()
//			want(t, client, srv, "ALLOW") // with a new token
//		})
//	}
package mosaictest
