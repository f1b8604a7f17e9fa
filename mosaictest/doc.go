// Package mosaictest provides a stand-in for Transmit Security's Mosaic, for tests of code that
// calls Mosaic. It serves both the token endpoint and the APIs.
//
//	srv := mosaictest.Start(t)
//	client := srv.Config().Client(srv.Context(t.Context()))
//	res, err := client.Get(srv.Endpoint().URL("/risk/v1/recommendation"))
//
// The server is as strict as Mosaic's documentation and the RFCs. For example, it refuses a wrong
// secret, a resource that is not configured for the application, an expired token, and a token for
// another service. Use it only in tests, because it does not protect what it serves.
//
// # Calling the server
//
// Most tests use [Start], which starts a server on the loopback interface and closes it when the
// test ends. Give the code under test the Config from [Server.Config], and a context from
// [Server.Context], which carries an HTTP client that trusts the server.
//
// If the code under test has a hard-coded host, make the server answer for that host with
// [Server.ServeAs]. If the code under test reads its CA certificates from a file, write
// [Server.Certificate] to that file.
//
// The paths /oidc/token and /cis/oidc/token are the token endpoint, and /cis/oidc/jwks has the
// public signing keys. All other paths are APIs. An API call must have a valid token for the service
// that the first segment of its path names. Use [Server.Handle] to set a handler for API calls.
// Without a handler, the response is a JSON object with the request's method and path, and the
// token's audience, client_id, scope, jti and exp.
//
// [Server.TokenRequests] and [Server.APIRequests] return the requests that the server has received.
//
// # Failures
//
// A [Fault] is a response that the test chooses, such as an error or a broken connection. A test can
// simulate
//   - an outage of the token endpoint, with [Server.Fail], [Server.FailNext] and [Server.Heal]
//   - an outage of an API, with [Server.Handle]
//   - a slow token endpoint, with [Server.SetLatency]
//   - a clock that is wrong, with [Server.SetSkew]
//   - the rotation of a client secret, with [Server.AddSecret] and [Server.RevokeSecret]
//   - the revocation of tokens, with [Server.Revoke] and [Server.RevokeToken]
//   - a service that is not configured for the application, with [Server.RemoveResource]
//   - other lifetimes and claims of tokens, with [Server.SetLifetime] and [Server.SetClaims]
//   - a server that follows FAPI 2.0 Final, with [Server.AcceptIssuerOnly]
//
// # Time
//
// In a testing/synctest bubble, hours pass instantly, so a test can wait until a token expires. Such
// a test must use [NewInMemory] instead of Start. In the bubble, synctest.Wait also waits for
// background renewals and log records.
//
// # FIPS 140-3
//
// The server works in Go's FIPS 140-3 mode, but should not be used in a bubble in this mode. Since
// Go 1.26, crypto/rand gets entropy by measuring how much time passes. In a bubble no time passes, so
// crypto/rand may panic ("failed to obtain initial entropy"). A test that must run in FIPS 140-3 mode
// should therefore use Start and no bubble. Skip all other tests in this mode, as the file below
// does, or run them with GODEBUG=fips140=off.
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
//	// recommend is the code under test. It returns CHALLENGE if it gets no recommendation.
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
//	// allow takes the place of Fraud Prevention.
//	var allow = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
//		io.WriteString(w, "ALLOW")
//	})
//
//	// withMosaic runs a test in a bubble, where an hour takes no time.
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
//			srv.Fail(mosaictest.Fault{Status: http.StatusServiceUnavailable}) // the token endpoint is down
//			want(t, client, srv, "CHALLENGE")
//			srv.Heal()
//			want(t, client, srv, "ALLOW")
//
//			srv.Handle("/risk/", mosaictest.Fault{Hang: true}) // Fraud Prevention is down
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
//				time.Sleep(2 * time.Hour) // until the token has expired
//			}
//		})
//	}
//
//	func TestRevokedToken(t *testing.T) {
//		withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
//			client := srv.Config().Client(srv.Context(t.Context()))
//			want(t, client, srv, "ALLOW")
//			time.Sleep(time.Minute) // Client does not renew a token younger than ten seconds
//			srv.Revoke()
//			want(t, client, srv, "ALLOW") // with a new token
//		})
//	}
package mosaictest
