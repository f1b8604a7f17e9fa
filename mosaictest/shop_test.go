package mosaictest_test

import (
	"crypto/fips140"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// recommend is the code under test. Without a recommendation it says CHALLENGE.
func recommend(client *http.Client, base mosaic.Endpoint) string {
	res, err := client.Get(base.URL("/risk/v1/recommendation"))
	if err != nil {
		return "CHALLENGE"
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return "CHALLENGE"
	}
	return string(body)
}

// allow stands in for Fraud Prevention.
var allow = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "ALLOW")
})

// withMosaic runs a test in a bubble: an hour takes no time.
func withMosaic(t *testing.T, test func(t *testing.T, srv *mosaictest.Server)) {
	if fips140.Enabled() {
		t.Skip("in FIPS mode crypto/rand panics in a bubble")
	}
	synctest.Test(t, func(t *testing.T) {
		srv := mosaictest.NewInMemory()
		defer srv.Close()
		srv.Handle("/risk/", allow)
		test(t, srv)
	})
}

func want(t *testing.T, client *http.Client, srv *mosaictest.Server, want string) {
	t.Helper()
	if got := recommend(client, srv.Endpoint()); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestRecommendation(t *testing.T) {
	withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
		client := srv.Config().Client(srv.Context(t.Context()))
		want(t, client, srv, "ALLOW")
		if got := srv.APIRequests()[0].RequestURI; got != "/risk/v1/recommendation" {
			t.Errorf("called %s", got)
		}
	})
}

func TestOutage(t *testing.T) {
	withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
		client := srv.Config().Client(srv.Context(t.Context()))
		client.Timeout = 5 * time.Second

		srv.Fail(mosaictest.Fault{Status: http.StatusServiceUnavailable}) // no tokens
		want(t, client, srv, "CHALLENGE")
		srv.Heal()
		want(t, client, srv, "ALLOW")

		srv.Handle("/risk/", mosaictest.Fault{Hang: true}) // no Fraud Prevention
		want(t, client, srv, "CHALLENGE")
		srv.Handle("/risk/", allow)
		want(t, client, srv, "ALLOW")
	})
}

func TestRotation(t *testing.T) {
	withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
		conf, second := srv.Config(), "the second secret"
		first := conf.ClientSecret
		file := filepath.Join(t.TempDir(), "secret")
		save := func(secret string) {
			if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		conf.ClientSecret, conf.GetCredentials = "", mosaic.Files{ClientSecret: file}.Credentials
		client := conf.Client(srv.Context(t.Context()))

		for _, step := range []func(){
			func() { save(first) },
			func() { srv.AddSecret(second) },
			func() { save(second) },
			func() { srv.RevokeSecret(first) },
		} {
			step()
			want(t, client, srv, "ALLOW")
			time.Sleep(2 * time.Hour) // the token expires
		}
	})
}

func TestRevokedToken(t *testing.T) {
	withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
		client := srv.Config().Client(srv.Context(t.Context()))
		want(t, client, srv, "ALLOW")
		time.Sleep(time.Minute) // a token younger than ten seconds is not renewed
		srv.Revoke()
		want(t, client, srv, "ALLOW") // with a new token
	})
}
