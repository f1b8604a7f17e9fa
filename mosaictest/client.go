package mosaictest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A client is registered for one way to authenticate.
type client struct {
	secret string
	keys   map[string]clientKey // by kid

	// certified checks the certificates that the client has presented, its
	// own first.
	certified func(chain []*x509.Certificate, now time.Time) error
}

type clientKey struct {
	alg    string
	public crypto.PublicKey
}

// SetSecret changes the secret of the client that [Server.Config] is for, as
// its rotation in Mosaic's Admin Portal does: the former one is refused from
// now on, the tokens that it has brought are not.
func (s *Server) SetSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secret = secret
	s.clients[clientID] = client{secret: secret}
}

// RegisterKey registers a client that authenticates with private_key_jwt (RFC
// 7523 §2.2), or an existing one anew. The JWK Set is what is submitted to
// Mosaic: each key has a kid, and as alg the only algorithm that is accepted
// with it, RS256, PS256, ES256 or EdDSA. One with an x5c and without an alg is a
// certificate's, and is passed over.
//
// An assertion is accepted once, from its iat to its exp by the server's clock,
// to the second, and if it lives for no more than five minutes. Its aud is a
// string: the URL that it is posted to, or the server's base URL.
//
// RegisterKey panics if jwks is no such set, or has a private key in it.
func (s *Server) RegisterKey(clientID string, jwks []byte) {
	keys, err := parseKeys(jwks)
	if err != nil {
		panic("mosaictest: RegisterKey: " + err.Error())
	}
	s.register(clientID, client{keys: keys})
}

// RegisterCertificate registers a client that authenticates with
// self_signed_tls_client_auth (RFC 8705 §2.2), or an existing one anew: by
// presenting leaf in the TLS handshake, be it expired or not.
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

// RegisterCA registers a client that authenticates with tls_client_auth (RFC
// 8705 §2.1), or an existing one anew: by presenting in the TLS handshake a
// certificate for subject, written as [crypto/x509/pkix.Name.String] does, and the
// intermediates that lead from it to one of roots. From then on the server names
// the roots in its handshakes.
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

	s.set(func(c *settings) {
		names := x509.NewCertPool()
		if c.caNames != nil {
			names = c.caNames.Clone() // a handshake may be reading the old one
		}
		//lint:ignore SA1019 The names are all that is wanted, and that these are no system roots is known.
		for _, name := range roots.Subjects() {
			names.AddCert(&x509.Certificate{Raw: name, RawSubject: name})
		}
		c.caNames = names
	})
}

func (s *Server) register(clientID string, c client) {
	if clientID == "" {
		panic("mosaictest: a client cannot be registered without an ID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[clientID] = c
}

// presented returns the certificate that the client presented, or nil.
func presented(r *http.Request) *x509.Certificate {
	if len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// authenticate returns nil if a token request comes from the client that it
// names.
func (s *Server) authenticate(r *http.Request, form url.Values, now time.Time) *refusal {
	id, secret, assertion := form.Get("client_id"), form.Get("client_secret"), form.Get("client_assertion")
	s.mu.Lock()
	c, known := s.clients[id]
	s.mu.Unlock()

	var err error
	switch {
	case secret != "" && assertion != "":
		return invalidRequest("there are both a secret and an assertion") // RFC 6749 §2.3
	case r.Header.Get("Authorization") != "":
		err = errors.New("credentials go into the form") // as in every sample of Mosaic's documentation
	case !known:
		err = errors.New("the client is not registered")
	case secret != "" && secret != c.secret:
		err = errors.New("the secret is not the client's")
	case secret != "":
	case assertion != "":
		err = s.checkAssertion(r, form, c, now)
	case c.certified == nil:
		err = errors.New("there are no credentials of the kind that the client is registered for")
	case presented(r) == nil:
		err = errors.New("no client certificate was presented")
	default:
		err = c.certified(r.TLS.PeerCertificates, now)
	}
	if err != nil {
		return &refusal{http.StatusUnauthorized, "invalid_client", err.Error()}
	}
	return nil
}

// checkAssertion checks a client assertion as RFC 7523 §3 asks, and uses it up.
func (s *Server) checkAssertion(r *http.Request, form url.Values, c client, now time.Time) error {
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return errors.New("the client_assertion_type is not that of a JWT")
	}
	id := form.Get("client_id")
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(form.Get("client_assertion"), claims, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		key, ok := c.keys[kid]
		if !ok {
			return nil, errors.New("the client has no key of that kid")
		}
		if t.Method.Alg() != key.alg {
			return nil, errors.New("the client is registered for another algorithm")
		}
		if key.alg == "PS256" {
			t.Method = strictPS256
		}
		return key.public, nil
	},
		jwt.WithIssuer(id),
		jwt.WithSubject(id),
		jwt.WithIssuedAt(), // where there is an iat, it is not in the future
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return err
	}

	base := string(s.endpoint)
	if aud, _ := claims["aud"].(string); aud != base+r.URL.Path && aud != base {
		return errors.New("the assertion's aud is not a string with the URL that it was posted to")
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

// strictPS256 is PS256 with a salt as long as the hash (RFC 7518 §3.5);
// golang-jwt itself verifies a salt of any length.
var strictPS256 = &jwt.SigningMethodRSAPSS{
	SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA,
	Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
}

// A jwk is a public key (RFC 7517, 7518 §6, 8037 §2).
type jwk struct {
	Kty string `json:"kty"`
	Use string `json:"use,omitempty"`
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	D   string `json:"d,omitempty"` // of a private key: refused

	X5C []string `json:"x5c,omitempty"`
}

func parseKeys(jwks []byte) (map[string]clientKey, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, err
	}
	keys := make(map[string]clientKey)
	for i, k := range set.Keys {
		if k.Alg == "" && k.D == "" && len(k.X5C) > 0 {
			continue
		}
		public, err := k.public()
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if _, twice := keys[k.Kid]; twice || k.Kid == "" {
			return nil, fmt.Errorf("key %d: kid %q is empty or another key's", i, k.Kid)
		}
		keys[k.Kid] = clientKey{k.Alg, public}
	}
	if len(keys) == 0 {
		return nil, errors.New("no keys")
	}
	return keys, nil
}

func (k jwk) public() (crypto.PublicKey, error) {
	if k.D != "" {
		return nil, errors.New("is a private key")
	}
	if k.Use != "" && k.Use != "sig" {
		return nil, fmt.Errorf("use %q is not sig", k.Use)
	}
	var err error
	field := func(s string) []byte {
		b, decodeErr := base64.RawURLEncoding.Strict().DecodeString(s)
		err = errors.Join(err, decodeErr)
		return b
	}
	n, e, x, y := field(k.N), field(k.E), field(k.X), field(k.Y)
	switch kind := k.Kty + " " + k.Crv + " " + k.Alg; {
	case err != nil:
		return nil, err
	case (kind == "RSA  RS256" || kind == "RSA  PS256") && len(n) >= 256 && 1 <= len(e) && len(e) <= 4:
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
	case kind == "EC P-256 ES256" && len(x) == 32 && len(y) == 32:
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	case kind == "OKP Ed25519 EdDSA" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("not a public key for RS256, PS256 (2048 bits or more), ES256 or EdDSA: kty %q, crv %q, alg %q", k.Kty, k.Crv, k.Alg)
}
