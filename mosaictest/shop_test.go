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

// recommend is the code under test. It returns CHALLENGE if it gets no recommendation.
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

// allow takes the place of Fraud Prevention.
var allow = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "ALLOW")
})

// withMosaic runs a test in a bubble, where an hour takes no time.
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

		srv.Fail(mosaictest.Fault{Status: http.StatusServiceUnavailable}) // the token endpoint is down
		want(t, client, srv, "CHALLENGE")
		srv.Heal()
		want(t, client, srv, "ALLOW")

		srv.Handle("/risk/", mosaictest.Fault{Hang: true}) // Fraud Prevention is down
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
			time.Sleep(2 * time.Hour) // until the token has expired
		}
	})
}

func TestRevokedToken(t *testing.T) {
	withMosaic(t, func(t *testing.T, srv *mosaictest.Server) {
		client := srv.Config().Client(srv.Context(t.Context()))
		want(t, client, srv, "ALLOW")
		time.Sleep(time.Minute) // Client does not renew a token younger than ten seconds
		srv.Revoke()
		want(t, client, srv, "ALLOW") // with a new token
	})
}
