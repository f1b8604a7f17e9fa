package mosaictest

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A client is registered for one method of authentication.
type client struct {
	secrets []string             // active, the newest last
	keys    map[string]clientKey // by kid

	// certified checks the certificates presented by the client, its own first.
	certified func(chain []*x509.Certificate, now time.Time) error
}

// SetSecret registers [Server.Config]'s client with one secret, in place of all others. Tokens
// obtained with those remain valid.
func (s *Server) SetSecret(secret string) { s.RegisterSecret(clientID, secret) }

// AddSecret gives [Server.Config]'s client a second active secret, the first step of a rotation.
// Mosaic allows two.
func (s *Server) AddSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secrets := s.clients[clientID].secrets
	if len(secrets) != 1 || secrets[0] == secret || secret == "" {
		panic("mosaictest: AddSecret: want a new secret beside a single active one")
	}
	s.clients[clientID] = client{secrets: []string{secrets[0], secret}}
}

// RevokeSecret revokes one of two active secrets of [Server.Config]'s client, the last step of a
// rotation. Tokens obtained with it remain valid. Mosaic does not revoke the last secret.
func (s *Server) RevokeSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secrets := s.clients[clientID].secrets
	i := slices.Index(secrets, secret)
	if i < 0 || len(secrets) == 1 {
		panic("mosaictest: RevokeSecret: the secret is not active, or the last one")
	}
	s.clients[clientID] = client{secrets: []string{secrets[1-i]}}
}

// RegisterSecret registers a client authenticating with a secret (client_secret_post). As all
// Register methods do, it replaces an earlier registration of the client ID.
func (s *Server) RegisterSecret(clientID, secret string) {
	if secret == "" {
		panic("mosaictest: RegisterSecret: the secret is empty")
	}
	s.register(clientID, client{secrets: []string{secret}})
}

// RegisterKey registers a client authenticating with private_key_jwt (RFC 7523 §2.2). The JWK Set
// is the one to submit to Mosaic, the result of [mosaic.Config.JWKS]. Each key is public, and has a
// kid that no other key has and an alg: RS256, PS256, ES256 or EdDSA. An assertion with another alg
// is refused. A key with x5c and without alg belongs to a certificate and is skipped.
//
// An assertion is accepted once, from its iat until its exp by the server's clock. It is valid for
// five minutes at most. Its aud is a string: the request's URL, or the issuer, which is the URL of
// [Server.Endpoint] and the iss of the server's tokens.
func (s *Server) RegisterKey(clientID string, jwks []byte) {
	s.register(clientID, client{keys: must(parseKeys(jwks))})
}

// AcceptIssuerOnly makes the server refuse an assertion unless its aud is the issuer, as FAPI 2.0
// Final and the revision of RFC 7523 require. Mosaic documents the token endpoint's URL instead. Use
// this method to test that a client with [mosaic.Config.AssertionAudience] is ready for such a
// server.
func (s *Server) AcceptIssuerOnly() { s.set(func() { s.issuerOnly = true }) }

// RegisterCertificate registers a client authenticating with self_signed_tls_client_auth (RFC 8705
// §2.2): it presents leaf in the TLS handshake. The server does not check the expiry of leaf.
func (s *Server) RegisterCertificate(clientID string, leaf *x509.Certificate) {
	if leaf == nil {
		panic("mosaictest: RegisterCertificate: the certificate is nil")
	}
	s.register(clientID, client{certified: func(chain []*x509.Certificate, _ time.Time) error {
		if !chain[0].Equal(leaf) {
			return errors.New("the certificate is not the client's")
		}
		return nil
	}})
}

// RegisterCA registers a client authenticating with tls_client_auth (RFC 8705 §2.1): it presents a
// certificate for subject, and the intermediates up to one of roots, in the TLS handshake. subject
// has the form of [crypto/x509/pkix.Name.String]. The server's handshakes name the roots from then
// on.
func (s *Server) RegisterCA(clientID string, roots *x509.CertPool, subject string) {
	if roots == nil {
		panic("mosaictest: RegisterCA: the roots are nil")
	}
	s.register(clientID, client{certified: func(chain []*x509.Certificate, now time.Time) error {
		intermediates := x509.NewCertPool()
		for _, c := range chain[1:] {
			intermediates.AddCert(c)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: intermediates,
			CurrentTime:   now,
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err == nil && chain[0].Subject.String() != subject {
			err = errors.New("the certificate's subject is not the client's")
		}
		return err
	}})

	//lint:ignore SA1019 Only the names are wanted; these are not the system roots.
	names := roots.Subjects()
	s.set(func() { s.caNames = append(s.caNames, names...) })
}

func (s *Server) register(clientID string, c client) {
	if clientID == "" {
		panic("mosaictest: the client ID is empty")
	}
	s.set(func() { s.clients[clientID] = c })
}

// presented returns the client's certificate of the TLS handshake, or nil.
func presented(r *http.Request) *x509.Certificate {
	if len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// authenticate returns nil if a token request comes from the client in its form.
func (s *Server) authenticate(r *http.Request, form url.Values, now time.Time) error {
	id, secret, assertion := form.Get("client_id"), form.Get("client_secret"), form.Get("client_assertion")
	s.mu.Lock()
	c, known := s.clients[id]
	s.mu.Unlock()

	switch {
	case r.Header.Get("Authorization") != "":
		return errors.New("credentials go into the form") // as in every sample of Mosaic's documentation
	case !known:
		return errors.New("the client is not registered")
	case secret != "" && !slices.Contains(c.secrets, secret):
		return errors.New("the secret is not the client's")
	case secret != "":
		return nil
	case assertion != "":
		return s.checkAssertion(r, form, c, now)
	case c.certified == nil:
		return errors.New("there are no credentials of the kind that the client is registered for")
	case presented(r) == nil:
		return errors.New("no client certificate was presented")
	}
	return c.certified(r.TLS.PeerCertificates, now)
}

// checkAssertion checks a client assertion (RFC 7523 §3) and uses it up.
func (s *Server) checkAssertion(r *http.Request, form url.Values, c client, now time.Time) error {
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return errors.New("the client_assertion_type is not that of a JWT")
	}
	id := form.Get("client_id")
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(form.Get("client_assertion"), claims, c.key,
		jwt.WithIssuer(id),
		jwt.WithSubject(id),
		jwt.WithIssuedAt(), // an iat is not in the future
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return err
	}

	switch aud, _ := claims["aud"].(string); {
	case aud == string(s.endpoint): // the issuer
	case s.current().issuerOnly:
		return errors.New("the assertion's aud is not a string with the issuer")
	case aud != "https://"+r.Host+r.URL.Path:
		return errors.New("the assertion's aud is not a string with the issuer or the URL that it was posted to")
	}
	iat, _ := claims.GetIssuedAt()
	exp, _ := claims.GetExpirationTime()
	if iat == nil || exp.Sub(iat.Time) > 5*time.Minute {
		return errors.New("the assertion has no iat, or is valid for more than five minutes")
	}
	jti, _ := claims["jti"].(string)
	if jti == "" {
		return errors.New("the assertion has no jti")
	}
	use := id + " " + jti
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.used[use]) {
		return errors.New("the assertion has been used before")
	}
	s.used[use] = exp.Time
	return nil
}

// key returns the key of an assertion.
func (c client) key(t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string)
	key, ok := c.keys[kid]
	switch {
	case !ok:
		return nil, errors.New("the client has no key of that kid")
	case t.Method.Alg() != key.alg:
		return nil, errors.New("the client is registered for another algorithm")
	case key.alg == "PS256":
		t.Method = strictPS256
	}
	return key.public, nil
}

// strictPS256 is PS256 with a salt as long as the hash (RFC 7518 §3.5). golang-jwt verifies a salt
// of any length.
var strictPS256 = &jwt.SigningMethodRSAPSS{
	SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA,
	Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
}
