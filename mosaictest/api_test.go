package mosaictest_test

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

func TestAPIRefuses(t *testing.T) {
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other := mosaictest.Start(t)
	otherToken := token(t, other, "")
	each(t, func(t *testing.T, s *mosaictest.Server) {
		good := token(t, s, "")
		parsed, _, err := jwt.NewParser().ParseUnverified(good, jwt.MapClaims{})
		if err != nil {
			t.Fatal(err)
		}
		forge := func(method jwt.SigningMethod, key any) string {
			forged := jwt.NewWithClaims(method, parsed.Claims)
			forged.Header["kid"] = parsed.Header["kid"]
			tok, err := forged.SignedString(key)
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}
		s.SetLifetime(0)
		expired := token(t, s, "")

		const invalid, missing = `Bearer error="invalid_token"`, `Bearer realm="mosaictest"`
		for _, tt := range []struct{ name, authorization, challenge string }{
			{"a valid token", "Bearer " + good, ""},
			{"scheme in lower case", "bearer " + good, ""},
			{"no token", "", missing},
			{"another scheme", "Basic YTpi", missing},
			{"the token without a scheme", good, missing},
			{"an empty token", "Bearer ", invalid},
			{"garbage", "Bearer garbage", invalid},
			{"another signature", "Bearer " + good[:len(good)-8] + "AAAAAAAA", invalid},
			{"no signature", "Bearer " + forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), invalid},
			{"another algorithm", "Bearer " + forge(jwt.SigningMethodHS256, make([]byte, 32)), invalid},
			{"another key", "Bearer " + forge(jwt.SigningMethodRS256, foreign), invalid},
			{"another server's token", "Bearer " + otherToken, invalid},
			{"an expired token", "Bearer " + expired, invalid},
			{"a token for another service", "Bearer " + token(t, s, mosaic.FraudPrevention), invalid},
		} {
			req := apiRequest(s, "/cis/v1/users", "")
			req.Header.Set("Authorization", tt.authorization)
			got := do(t, s.Client(), req)
			want := 401
			if tt.challenge == "" {
				want = 200
			}
			if got.StatusCode != want || got.Header.Get("WWW-Authenticate") != tt.challenge {
				t.Errorf("%s: got %d %q; want %d %q", tt.name, got.StatusCode, got.Header.Get("WWW-Authenticate"), want, tt.challenge)
			}
			if message, _ := got.json["message"].(string); want == 401 && (got.json["error_code"] != 401.0 || message == "") || strings.Contains(got.body, good[100:]) {
				t.Errorf("%s: body %s", tt.name, got.body)
			}
		}
	})
}

func TestEachServiceWantsItsOwnAudience(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		const own mosaic.Resource = "https://api.acme.com"
		s.AddResource(own)
		s.AddResource(mosaic.FraudPrevention) // stays for /risk alone
		const verify, risk, dv = mosaic.IdentityVerification, mosaic.FraudPrevention, mosaic.DataValidation
		tokens := make(map[mosaic.Resource]string)
		for _, r := range []mosaic.Resource{"", own, verify, risk, dv} {
			tokens[r] = token(t, s, r)
		}
		for path, want := range map[string][]mosaic.Resource{
			"/verify/api/v1/verification":       {verify},
			"/verify":                           {verify},
			"/risk/v1/recommendation?x=/verify": {risk},
			"/xdv/v1":                           {dv},
			"/verifyx/api":                      {"", own},
			"/verify%2Fapi":                     {"", own}, // an escaped slash ends no segment
			"/cis/v1/users":                     {"", own},
			"/cis/risk":                         {"", own},
			"/":                                 {"", own},
		} {
			for r, tok := range tokens {
				got := call(t, s, path, tok)
				if !slices.Contains(want, r) {
					got.wants(t, 401)
					continue
				}
				got.wants(t, 200)
				c := claims(t, tok)
				if got.json["path"] != path || got.json["method"] != "GET" || got.json["audience"] != c["aud"] || got.json["client_id"] != c["client_id"] ||
					got.json["jti"] != c["jti"] || got.json["exp"] != c["exp"] || got.json["scope"] != c["scope"] {
					t.Errorf("%s: the answer says %s", path, got.body)
				}
			}
		}
	})
}

func TestHandle(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		tok := token(t, s, "")
		s.Handle("POST /cis/login", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Header.Del("X-Test")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, "wrong password %s", body)
		}))
		s.Handle("/cis/stream", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
				t.Error(err)
			}
			<-r.Context().Done()
		}))
		s.Handle("/cis/silent", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.Handle("/cis/oidc/jwks", http.NotFoundHandler())
		s.Handle("/oidc/token", http.NotFoundHandler())

		login := func(tok string) reply {
			req := request(s, "POST", "/cis/login", "hunter2")
			req.Header.Set("X-Test", "a")
			req.Header.Set("Authorization", tok)
			return do(t, s.Client(), req)
		}
		got := login("Bearer " + tok)
		if got.StatusCode != 401 || got.body != "wrong password hunter2" || got.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("a handler's own 401: %s %q", got.Status, got.body)
		}
		if got := login(""); strings.Contains(got.body, "password") || got.StatusCode != 401 {
			t.Errorf("without a token: %s %q", got.Status, got.body)
		}
		if s.APIRequests()[0].Header.Get("X-Test") != "a" {
			t.Error("a handler changes the recorded header")
		}
		call(t, s, "/cis/silent", tok)
		if reqs := s.APIRequests(); reqs[len(reqs)-1].Status != 200 {
			t.Errorf("a handler that writes nothing: recorded status %d; want 200", reqs[len(reqs)-1].Status)
		}
		call(t, s, "/cis/oidc/jwks", "").wants(t, 200)
		token(t, s, "")

		resp, err := s.Client().Do(apiRequest(s, "/cis/stream", tok))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		s.Close() // ends the stream
	})
}

func TestAnAPIFailsAndRecovers(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		const pattern = "GET /cis/{id}"
		works := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.PathValue("id")) })
		tok := token(t, s, "")
		s.Handle(pattern, works)
		s.Handle("GET /cis/other", works)
		for _, fault := range []mosaictest.Fault{
			{Status: 503, Body: "down"},
			{Status: 401, Header: http.Header{"Www-Authenticate": {`Bearer error="insufficient_scope"`}}},
			{Status: 429, Header: http.Header{"Retry-After": {"7"}}},
			mosaictest.MessageError(463, "blacklisted"),
		} {
			s.Handle(pattern, fault)
			got := call(t, s, "/cis/17", tok)
			if got.StatusCode != fault.Status || got.body != fault.Body || got.Header.Get("Date") == "" {
				t.Errorf("got %s %v %q; want %v", got.Status, got.Header, got.body, fault)
			}
			for name := range fault.Header {
				if got.Header.Get(name) != fault.Header.Get(name) {
					t.Errorf("%s: got %q", name, got.Header.Get(name))
				}
			}
			if reqs := s.APIRequests(); reqs[len(reqs)-1].Status != fault.Status {
				t.Errorf("recorded status %d; want %d", reqs[len(reqs)-1].Status, fault.Status)
			}
			call(t, s, "/cis/17", "").wants(t, 401) // the token is checked first
		}
		s.Handle(pattern, mosaictest.Fault{})
		if resp, err := s.Client().Do(apiRequest(s, "/cis/17", tok)); err == nil {
			t.Errorf("the zero Fault: got %s; want an error", resp.Status)
		}
		call(t, s, "/cis/other", tok).wants(t, 200)

		s.Handle(pattern, works)
		if got := call(t, s, "/cis/17", tok); got.body != "17" {
			t.Errorf("it has recovered: got %s %q", got.Status, got.body)
		}
		s.Handle(pattern, nil)
		if got := call(t, s, "/cis/17", tok); got.json["path"] != "/cis/17" {
			t.Errorf("unmounted: got %s %q", got.Status, got.body)
		}
	})
}
