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
	secrets []string             // the active secrets, the newest last
	keys    map[string]clientKey // by kid

	// certified checks the certificates that the client has presented, of which its own comes first.
	// It is nil if the client is registered for another method.
	certified func(chain []*x509.Certificate, now time.Time) error
}

// SetSecret makes secret the only secret of [Server.Config]'s client. Tokens obtained with earlier
// secrets remain valid. SetSecret panics if secret is empty.
func (s *Server) SetSecret(secret string) { s.RegisterSecret(clientID, secret) }

// AddSecret gives [Server.Config]'s client a second active secret, which is the first step of a
// rotation. Mosaic allows two active secrets. AddSecret panics if secret is empty or already active,
// or if the client does not have exactly one active secret.
func (s *Server) AddSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secrets := s.clients[clientID].secrets
	if len(secrets) != 1 || secrets[0] == secret || secret == "" {
		panic("mosaictest: AddSecret: the client must have exactly one active secret, and the new secret must be another one")
	}
	s.clients[clientID] = client{secrets: []string{secrets[0], secret}}
}

// RevokeSecret revokes one of the two active secrets of [Server.Config]'s client, which is the last
// step of a rotation. It panics if secret is not active, or if secret is the only active secret,
// because Mosaic does not let you revoke the last secret.
//
// Tokens obtained with the secret remain valid. Whether they do in Mosaic is not documented.
func (s *Server) RevokeSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secrets := s.clients[clientID].secrets
	i := slices.Index(secrets, secret)
	if i < 0 || len(secrets) == 1 {
		panic("mosaictest: RevokeSecret: the secret must be one of two active secrets")
	}
	s.clients[clientID] = client{secrets: []string{secrets[1-i]}}
}

// RegisterSecret registers a client that authenticates with a secret (client_secret_post). Like all
// Register methods, it replaces an earlier registration of the client ID. It panics if clientID or
// secret is empty.
func (s *Server) RegisterSecret(clientID, secret string) {
	if secret == "" {
		panic("mosaictest: the secret is empty")
	}
	s.register(clientID, client{secrets: []string{secret}})
}

// RegisterKey registers a client that authenticates with private_key_jwt (RFC 7523 §2.2). jwks is
// the JWK Set that you would submit to Mosaic, such as the result of [mosaic.Config.JWKS]. Each key
// must be public, and must have an alg (RS256, PS256, ES256 or EdDSA) and a kid of its own. A key
// that has x5c but no alg is skipped, because it belongs to a certificate. RegisterKey panics if
// clientID is empty, if jwks is invalid, or if jwks has only keys to skip.
//
// An assertion must have the alg of its key, and a jti that the client has not used before. By the
// server's clock, its iat must not be in the future, and its exp must not have passed. Its exp must be
// at most five minutes after its iat. Its aud must be a string, either the URL that the request is sent
// to or the issuer. The issuer is the URL of [Server.Endpoint], which is also the iss of the server's
// tokens.
func (s *Server) RegisterKey(clientID string, jwks []byte) {
	s.register(clientID, client{keys: must(parseKeys(jwks))})
}

// AcceptIssuerOnly makes the server refuse an assertion unless its aud is the issuer, as FAPI 2.0
// Final and the revision of RFC 7523 require. By default, the server also accepts the URL of the token
// endpoint, which is the aud that Mosaic documents. Use AcceptIssuerOnly to test that a client whose
// [mosaic.Config] has an AssertionAudience works with a server that requires the issuer.
func (s *Server) AcceptIssuerOnly() { s.set(func() { s.issuerOnly = true }) }

// RegisterCertificate registers a client that authenticates with self_signed_tls_client_auth
// (RFC 8705 §2.2). The client must present leaf in the TLS handshake. The server does not check
// whether leaf has expired. RegisterCertificate panics if clientID is empty or leaf is nil.
func (s *Server) RegisterCertificate(clientID string, leaf *x509.Certificate) {
	if leaf == nil {
		panic("mosaictest: RegisterCertificate: the certificate is nil")
	}
	s.register(clientID, client{certified: func(chain []*x509.Certificate, _ time.Time) error {
		if !chain[0].Equal(leaf) {
			return errors.New("the certificate is not the one registered for the client")
		}
		return nil
	}})
}

// RegisterCA registers a client that authenticates with tls_client_auth (RFC 8705 §2.1). In the TLS
// handshake, the client must present a certificate with this subject, and any intermediate
// certificates between it and one of roots. The subject has the form of
// [crypto/x509/pkix.Name.String], for example "CN=acme,O=Acme". RegisterCA panics if clientID is
// empty or roots is nil.
//
// From then on, the server names the roots as acceptable CAs in its TLS handshakes.
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

	//lint:ignore SA1019 Subjects lacks only the system roots, and these are not the system roots.
	names := roots.Subjects()
	s.set(func() { s.caNames = append(s.caNames, names...) })
}

func (s *Server) register(clientID string, c client) {
	if clientID == "" {
		panic("mosaictest: the client ID is empty")
	}
	s.set(func() { s.clients[clientID] = c })
}

// presented returns the certificate that the client presented in the TLS handshake, or nil.
func presented(r *http.Request) *x509.Certificate {
	if len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// authenticate returns an error unless a token request has valid credentials of the client that its
// form names.
func (s *Server) authenticate(r *http.Request, form url.Values, now time.Time) error {
	id, secret, assertion := form.Get("client_id"), form.Get("client_secret"), form.Get("client_assertion")
	s.mu.Lock()
	c, known := s.clients[id]
	s.mu.Unlock()

	switch {
	case r.Header.Get("Authorization") != "":
		return errors.New("the request has an Authorization header: send the credentials in the form") // as all of Mosaic's samples do
	case !known:
		return errors.New("the client is not registered")
	case secret != "" && !slices.Contains(c.secrets, secret):
		return errors.New("the client has no such secret")
	case secret != "":
		return nil
	case assertion != "":
		return s.checkAssertion(r, form, c, now)
	case c.certified == nil:
		return errors.New("the request has no credentials of the kind that the client is registered for")
	case presented(r) == nil:
		return errors.New("no client certificate was presented")
	}
	return c.certified(r.TLS.PeerCertificates, now)
}

// checkAssertion checks a client assertion (RFC 7523 §3), and records its jti so that the assertion
// cannot be used again.
func (s *Server) checkAssertion(r *http.Request, form url.Values, c client, now time.Time) error {
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return errors.New("the client_assertion_type is not urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	}
	id := form.Get("client_id")
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(form.Get("client_assertion"), claims, c.key,
		jwt.WithIssuer(id),
		jwt.WithSubject(id),
		jwt.WithIssuedAt(), // refuses an iat in the future
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return err
	}

	switch aud, _ := claims["aud"].(string); {
	case aud == string(s.endpoint): // the issuer
	case s.current().issuerOnly:
		return errors.New("the assertion's aud must be the issuer, as a string")
	case aud != "https://"+r.Host+r.URL.Path:
		return errors.New("the assertion's aud must be the issuer or the URL of this token endpoint, as a string")
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

// key returns the key that must have signed an assertion.
func (c client) key(t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string)
	key, ok := c.keys[kid]
	switch {
	case !ok:
		return nil, errors.New("the client has no key with this kid")
	case t.Method.Alg() != key.alg:
		return nil, errors.New("the key is registered for another algorithm")
	case key.alg == "PS256":
		t.Method = strictPS256
	}
	return key.public, nil
}

// strictPS256 requires a salt as long as the hash (RFC 7518 §3.5), because golang-jwt's own PS256
// accepts a salt of any length.
var strictPS256 = &jwt.SigningMethodRSAPSS{
	SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA,
	Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
}
