package mosaictest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
)

// signingKey is made once per process: 2048 bits take some 50 ms. Servers, and the times before and
// after [Server.Revoke], differ by its kid.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

// SetLifetime sets the lifetime of tokens issued from now on, rounded down to seconds. The default
// is one hour, as Mosaic's. With zero or less, tokens have expired on arrival.
func (s *Server) SetLifetime(d time.Duration) { s.set(func() { s.lifetime = d }) }

// SetClaims calls change with the claims of each token issued from now on, before the token is
// signed. change may set, add and delete claims, such as ts_permissions. Arrays are []string, times
// are int64. The APIs check the changed exp, aud and cnf. Concurrent token requests call change
// concurrently. With nil, the default, claims are not changed.
func (s *Server) SetClaims(change func(claims map[string]any)) {
	s.set(func() { s.change = change })
}

// BindTokens turns the binding of tokens to client certificates on or off. When it is on, a token
// requested with a client certificate carries its thumbprint (cnf, RFC 8705 §3), and API calls with
// this token are refused without this certificate. The client's method of authentication does not
// matter. The default is off.
func (s *Server) BindTokens(on bool) { s.set(func() { s.binding = on }) }

// Revoke revokes all tokens issued so far, as the deletion of an app-specific signing key does:
// APIs answer 401. Later tokens, and the published signing keys, have another kid.
//
// [mosaic.Config.Client] does not renew a refused token younger than ten seconds: sleep first.
func (s *Server) Revoke() { s.set(func() { s.kid = rand.Text() }) }

// RevokeToken revokes one token, as [Server.Revoke] revokes all.
func (s *Server) RevokeToken(t *oauth2.Token) { s.set(func() { s.revoked[t.AccessToken] = true }) }

// mint returns the reply with a new token.
func (s *Server) mint(client, audience, scope string, cert *x509.Certificate, now time.Time) map[string]any {
	current := s.current()
	seconds := int64(current.lifetime / time.Second)

	// As in the decoded token of Mosaic's documentation, with two exceptions: sub is the client ID,
	// by the documentation's own table, and iss the application's domain, as with an app-specific
	// signing key.
	claims := jwt.MapClaims{
		"tid":            "6oi3tjkijshdfgekwjfwey9",
		"app_name":       "Acme",
		"app_id":         "zl2trg3sanjsd63qs7se",
		"roles":          []string{},
		"jti":            rand.Text(),
		"sub":            client,
		"iat":            now.Unix(),
		"exp":            now.Unix() + seconds,
		"scope":          scope,
		"client_id":      client,
		"iss":            string(s.endpoint),
		"aud":            audience,
		"ts_roles":       []string{"reader"},
		"ts_permissions": []string{"read:user"},
	}
	if current.binding && cert != nil {
		claims["cnf"] = map[string]any{"x5t#S256": thumbprint(cert)}
	}
	if current.change != nil {
		current.change(claims)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = current.kid
	signed := must(token.SignedString(signingKey()))
	reply := map[string]any{"access_token": signed, "token_type": "Bearer", "expires_in": seconds}
	if scope, ok := claims["scope"]; ok {
		reply["scope"] = scope
	}
	return reply
}

// thumbprint is the x5t#S256 of RFC 8705 §3.1.
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// verify returns the claims of a valid token of this server.
func (s *Server) verify(token string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.Header["kid"] != s.kid || s.revoked[token] {
			return nil, errors.New("the token has been revoked")
		}
		return signingKey().Public(), nil
	},
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithExpirationRequired(), // "will not be accepted on or after": to the second, without leeway
		jwt.WithTimeFunc(s.now))
	return claims, err
}

// keys answers with the public signing key.
func (s *Server) keys() Fault {
	pub := signingKey().PublicKey
	return jsonReply(http.StatusOK, map[string][]jwk{"keys": {{
		Kty: "RSA",
		Use: "sig",
		Alg: "RS256",
		Kid: s.current().kid,
		N:   base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		E:   base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes()),
	}}})
}
