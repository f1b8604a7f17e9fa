package mosaictest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// each runs test with a server of each kind.
func each(t *testing.T, test func(t *testing.T, s *mosaictest.Server)) {
	t.Helper()
	t.Run("loopback", func(t *testing.T) { test(t, mosaictest.Start(t)) })
	t.Run("in memory", func(t *testing.T) { kit.Bubble(t, test) })
}

// A reply is a response with its body read.
type reply struct {
	*http.Response
	body string
	json map[string]any
}

func do(t testing.TB, c *http.Client, req *http.Request) reply {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the reply: %v", req.Method, req.URL.Path, err)
	}
	r := reply{Response: resp, body: string(body)}
	json.Unmarshal(body, &r.json)
	return r
}

func (r reply) wants(t testing.TB, status int) {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("%s %s: got %d; want %d: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, status, r.body)
	}
}

// refuses wants the token endpoint's error, or none if code is empty.
func (r reply) refuses(t testing.TB, status int, code string) {
	t.Helper()
	got, _ := r.json["error"].(string)
	description, _ := r.json["error_description"].(string)
	if r.StatusCode != status || got != code || (description == "") != (code == "") {
		t.Errorf("got %d %q %q; want %d %q", r.StatusCode, got, description, status, code)
	}
}

func request(s *mosaictest.Server, method, path, body string) *http.Request {
	req, err := http.NewRequest(method, s.Endpoint().URL(path), strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	return req
}

func tokenRequest(s *mosaictest.Server, path string, form url.Values) *http.Request {
	req := request(s, "POST", path, form.Encode())
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

func secretForm(s *mosaictest.Server) url.Values {
	conf := s.Config()
	return url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {conf.ClientID},
		"client_secret": {conf.ClientSecret},
	}
}

// post requests a token. The pairs are of the form, in place of the Config's own.
func post(t testing.TB, s *mosaictest.Server, pairs ...string) reply {
	t.Helper()
	form := secretForm(s)
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return do(t, s.Client(), tokenRequest(s, "/oidc/token", form))
}

// token returns a new access token.
func token(t testing.TB, s *mosaictest.Server, r mosaic.Resource) string {
	t.Helper()
	return accessToken(t, post(t, s, "resource", string(r)))
}

func accessToken(t testing.TB, r reply) string {
	t.Helper()
	tok, _ := r.json["access_token"].(string)
	if r.StatusCode != 200 || tok == "" {
		t.Fatalf("no token: %s %v", r.Status, r.json["error_description"])
	}
	return tok
}

func apiRequest(s *mosaictest.Server, path, token string) *http.Request {
	req := request(s, "GET", path, "")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

func call(t testing.TB, s *mosaictest.Server, path, token string) reply {
	t.Helper()
	return do(t, s.Client(), apiRequest(s, path, token))
}

// claims reads a token without verifying it.
func claims(t testing.TB, token string) jwt.MapClaims {
	t.Helper()
	c := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(token, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func oauthToken(token string) *oauth2.Token { return &oauth2.Token{AccessToken: token} }
