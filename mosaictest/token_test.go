package mosaictest_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestTokenVerifiesAgainstThePublishedKeys(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		for _, path := range []string{"/oidc/token", "/cis/oidc/token"} {
			form := secretForm(s)
			form.Set("resource", string(mosaic.IdentityVerification))
			form.Set("scope", "a b")
			got := do(t, s.Client(), tokenRequest(s, path, form))
			tok := accessToken(t, got)
			if got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: header %v", path, got.Header)
			}
			if got.json["token_type"] != "Bearer" || got.json["expires_in"] != 3600.0 || got.json["scope"] != "a b" || len(got.json) != 4 {
				t.Errorf("%s: reply beside the token: %v %v %v, %d members", path, got.json["token_type"], got.json["expires_in"], got.json["scope"], len(got.json))
			}
			if n := len(tok); n < 850 || n > 950 {
				t.Errorf("%s: a token of %d bytes; want about 900", path, n)
			}

			var set struct{ Keys []map[string]string }
			if err := json.Unmarshal([]byte(call(t, s, "/cis/oidc/jwks", "").body), &set); err != nil {
				t.Fatal(err)
			}
			c := jwt.MapClaims{}
			_, err := jwt.ParseWithClaims(tok, c, func(tok *jwt.Token) (any, error) {
				for _, k := range set.Keys {
					if k["kid"] == tok.Header["kid"] && k["kty"] == "RSA" && k["alg"] == "RS256" {
						n, _ := base64.RawURLEncoding.DecodeString(k["n"])
						e, _ := base64.RawURLEncoding.DecodeString(k["e"])
						return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
					}
				}
				return nil, fmt.Errorf("kid %v is not among the keys", tok.Header["kid"])
			}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
				jwt.WithIssuer(string(s.Endpoint())), jwt.WithSubject(s.Config().ClientID))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if aud, ok := c["aud"].(string); !ok || aud != string(mosaic.IdentityVerification) {
				t.Errorf("%s: aud: got %v; want the resource as a string", path, c["aud"])
			}
			if c["exp"].(float64)-c["iat"].(float64) != 3600 {
				t.Errorf("%s: iat %v, exp %v: not an hour", path, c["iat"], c["exp"])
			}
			for _, name := range []string{"tid", "app_name", "app_id", "jti", "scope", "client_id"} {
				if v, _ := c[name].(string); v == "" {
					t.Errorf("%s: no claim %s", path, name)
				}
			}
			for _, name := range []string{"roles", "ts_roles", "ts_permissions"} {
				if _, ok := c[name].([]any); !ok {
					t.Errorf("%s: claim %s is no array", path, name)
				}
			}
		}
		first, second := claims(t, token(t, s, "")), claims(t, token(t, s, ""))
		if first["jti"] == second["jti"] {
			t.Error("two tokens have one jti")
		}
		if first["aud"] != "userid-api" {
			t.Errorf("aud without a resource: got %v; want userid-api", first["aud"])
		}
	})
}

func TestTokenEndsAtItsExp(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
		for _, tt := range []struct {
			lifetime  time.Duration
			expiresIn float64
		}{
			{time.Hour, 3600}, {5 * time.Second, 5}, {30 * 24 * time.Hour, 30 * 24 * 3600}, {2500 * time.Millisecond, 2},
		} {
			s.SetLifetime(tt.lifetime)
			time.Sleep(300 * time.Millisecond) // into a second: exp is whole
			got := post(t, s)
			if got.json["expires_in"] != tt.expiresIn {
				t.Errorf("lifetime %v: expires_in: got %v; want %v", tt.lifetime, got.json["expires_in"], tt.expiresIn)
			}
			tok := accessToken(t, got)
			exp := time.Unix(int64(claims(t, tok)["exp"].(float64)), 0)
			time.Sleep(time.Until(exp) - time.Nanosecond)
			call(t, s, "/cis/x", tok).wants(t, 200)
			time.Sleep(time.Nanosecond)
			call(t, s, "/cis/x", tok).wants(t, 401)
		}
	})
}

func TestSkewMovesTheWholeServer(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
		for _, skew := range []time.Duration{0, 90 * time.Minute, -90 * time.Minute, 25 * time.Hour} {
			s.SetSkew(skew)
			server := time.Now().Add(skew).Truncate(time.Second)
			got := post(t, s)
			tok := accessToken(t, got)
			c := claims(t, tok)
			if iat := int64(c["iat"].(float64)); iat != server.Unix() || int64(c["exp"].(float64)) != iat+3600 {
				t.Errorf("skew %v: iat %v, exp %v; want %d and an hour later", skew, c["iat"], c["exp"], server.Unix())
			}
			called := call(t, s, "/cis/x", tok)
			called.wants(t, 200)
			for _, r := range []reply{got, called, call(t, s, "/cis/x", ""), call(t, s, "/cis/oidc/jwks", "")} {
				if date, err := http.ParseTime(r.Header.Get("Date")); err != nil || !date.Equal(server) {
					t.Errorf("skew %v: %s has Date %q; want %v", skew, r.Request.URL.Path, r.Header.Get("Date"), server)
				}
			}
			s.SetSkew(skew + time.Hour)
			call(t, s, "/cis/x", tok).wants(t, 401) // the server's clock is at exp
		}
	})
}

func TestARevokedTokenIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		first, second, other := token(t, s, ""), token(t, s, ""), token(t, s, mosaic.FraudPrevention)
		want := func(path, tok string, status int) {
			t.Helper()
			got := call(t, s, path, tok)
			got.wants(t, status)
			if challenge := got.Header.Get("WWW-Authenticate"); (challenge == `Bearer error="invalid_token"`) != (status == 401) {
				t.Errorf("%s: challenge %q", path, challenge)
			}
		}
		s.RevokeToken(oauthToken(first))
		want("/cis/x", first, 401)
		want("/cis/x", second, 200)
		want("/risk/x", other, 200)
		s.Revoke()
		want("/cis/x", first, 401)
		want("/cis/x", second, 401)
		want("/risk/x", other, 401)
		want("/cis/x", token(t, s, ""), 200)
	})
}

func TestClaimsAreTheTestsChoice(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		s.SetClaims(func(c map[string]any) {
			c["ts_permissions"] = append(c["ts_permissions"].([]string), "write:user")
			c["role"] = []string{"admin"}
			delete(c, "tid")
			delete(c, "scope")
		})
		reply := post(t, s)
		tok := accessToken(t, reply)
		got, err := mosaic.ParseClaims(oauthToken(tok))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got.TSPermissions, got.Role, got.TSRoles) != "[read:user write:user] [admin] [reader]" || got.TenantID != "" || len(reply.json) != 3 {
			t.Errorf("claims %+v, a reply of %d members", got, len(reply.json))
		}
		call(t, s, "/cis/x", tok).wants(t, 200)

		for _, tt := range []struct {
			name   string
			change func(map[string]any)
			path   string
			status int
		}{
			{"another issuer", func(c map[string]any) { c["iss"] = "https://eu.userid.security" }, "/cis/x", 200},
			{"aud of a service", func(c map[string]any) { c["aud"] = mosaic.FraudPrevention }, "/risk/x", 200},
			{"aud of another service", func(c map[string]any) { c["aud"] = mosaic.FraudPrevention }, "/cis/x", 401},
			{"aud an array", func(c map[string]any) { c["aud"] = []string{"x", string(mosaic.FraudPrevention)} }, "/risk/x", 200},
			{"no aud", func(c map[string]any) { delete(c, "aud") }, "/cis/x", 401},
			{"exp now", func(c map[string]any) { c["exp"] = c["iat"] }, "/cis/x", 401},
			{"exp in a second", func(c map[string]any) { c["exp"] = c["iat"].(int64) + 10 }, "/cis/x", 200},
			{"no exp", func(c map[string]any) { delete(c, "exp") }, "/cis/x", 401},
			{"cnf of another certificate", func(c map[string]any) { c["cnf"] = map[string]string{"x5t#S256": "x"} }, "/cis/x", 401},
			{"no change", nil, "/cis/x", 200},
		} {
			s.SetClaims(tt.change)
			got := post(t, s)
			if got.json["expires_in"] != 3600.0 {
				t.Errorf("%s: expires_in %v", tt.name, got.json["expires_in"])
			}
			if got := call(t, s, tt.path, accessToken(t, got)); got.StatusCode != tt.status {
				t.Errorf("%s: got %d; want %d", tt.name, got.StatusCode, tt.status)
			}
		}
	})
}

func TestBoundTokens(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		mine, theirs := kit.Certificate(t, "mine", kit.EC(), nil), kit.Certificate(t, "theirs", kit.EC(), nil)
		me, they := presenting(t, s, mine, false), presenting(t, s, theirs, false)
		obtain := func(c *http.Client) string {
			return accessToken(t, do(t, c, tokenRequest(s, "/oidc/token", secretForm(s))))
		}
		if c := claims(t, obtain(me)); c["cnf"] != nil {
			t.Errorf("before BindTokens: cnf %v", c["cnf"])
		}
		s.BindTokens(true)
		bound, free := obtain(me), obtain(s.Client())
		sum := sha256.Sum256(mine.Leaf.Raw)
		want := base64.RawURLEncoding.EncodeToString(sum[:])
		if cnf, _ := claims(t, bound)["cnf"].(map[string]any); cnf["x5t#S256"] != want {
			t.Errorf("cnf: got %v; want %s", cnf, want)
		}
		for _, tt := range []struct {
			name   string
			client *http.Client
			token  string
			status int
		}{
			{"bound, without its certificate", s.Client(), bound, 401},
			{"bound, with another", they, bound, 401},
			{"bound, with its certificate", me, bound, 200},
			{"free, with a certificate", me, free, 200},
			{"free, without", s.Client(), free, 200},
		} {
			if got := do(t, tt.client, apiRequest(s, "/cis/x", tt.token)); got.StatusCode != tt.status {
				t.Errorf("%s: got %d; want %d", tt.name, got.StatusCode, tt.status)
			}
		}
	})
}
