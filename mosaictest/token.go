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

// signingKey is made once per process, because that takes about 50 ms. Each server gives the key a
// kid of its own, and [Server.Revoke] replaces the kid.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

// SetLifetime sets the lifetime of tokens that are issued from now on. The default is one hour, as in
// Mosaic. A fraction of a second is dropped. If d is less than a second, tokens have expired when
// they arrive.
func (s *Server) SetLifetime(d time.Duration) { s.set(func() { s.lifetime = d }) }

// SetClaims sets a function that the server calls with the claims of each token that it issues from
// now on, before it signs the token. The function may change, add and delete claims, such as
// ts_permissions. Arrays have the type []string. Times have the type int64, in Unix seconds. The APIs
// check the changed exp, aud and cnf, but the expires_in of the response is not changed.
//
// If token requests are concurrent, so are the calls to the function. A nil function, which is the
// default, leaves the claims unchanged.
func (s *Server) SetClaims(change func(claims map[string]any)) {
	s.set(func() { s.change = change })
}

// BindTokens turns the binding of tokens to client certificates on or off. It is off by default. When
// it is on, a token that is requested with a client certificate has the certificate's thumbprint in
// its cnf claim (RFC 8705 §3). An API call with this token is refused unless the client presents the
// same certificate. This applies to all clients, however they authenticate.
func (s *Server) BindTokens(on bool) { s.set(func() { s.binding = on }) }

// Revoke revokes all tokens that have been issued so far, as happens in Mosaic when an app-specific
// signing key is deleted. API calls with these tokens get a 401. The published signing key and all
// later tokens have a new kid.
//
// After a 401, the client of [mosaic.Config.Client] renews its token only if the token is at least ten
// seconds old. A test of that renewal must therefore sleep before it calls the API again.
func (s *Server) Revoke() { s.set(func() { s.kid = rand.Text() }) }

// RevokeToken revokes t, but no other token. See [Server.Revoke].
func (s *Server) RevokeToken(t *oauth2.Token) { s.set(func() { s.revoked[t.AccessToken] = true }) }

// mint returns the body of a response with a new token.
func (s *Server) mint(client, audience, scope string, cert *x509.Certificate, now time.Time) map[string]any {
	current := s.current()
	seconds := int64(current.lifetime / time.Second)

	// These are the claims of the decoded token in Mosaic's documentation, with two exceptions. The
	// sub is the client ID, as the documentation's table of claims says. The iss is the application's
	// domain, as if the application had its own signing key.
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

// thumbprint returns the x5t#S256 of a certificate (RFC 8705 §3.1).
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// verify returns the claims of a token, or an error unless the token is valid and from this server.
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
		jwt.WithExpirationRequired(), // Mosaic: "will not be accepted on or after", so there is no leeway
		jwt.WithTimeFunc(s.now))
	return claims, err
}

// keys returns the response with the public signing key.
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
