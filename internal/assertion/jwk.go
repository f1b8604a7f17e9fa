package assertion

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"unicode/utf8"
)

// A JWK is a public key as a JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037
// §2). There is no member that could hold a private one.
type JWK struct {
	KeyType   string `json:"kty"`
	Use       string `json:"use"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`

	// X5C is a certificate of this very key and then its chain, in DER, as in
	// tls.Certificate's Certificate. It alone is in standard base64, as which
	// encoding/json writes it (RFC 7517 §4.7).
	X5C [][]byte `json:"x5c,omitempty"`
}

// NewJWK returns the JWK of pub, a key that [PublicKey] or a certificate has.
// The empty id is the key's RFC 7638 SHA-256 thumbprint; with an empty algorithm there is no
// alg. An id that is not UTF-8 is refused, for JSON would change it.
func NewJWK(pub crypto.PublicKey, algorithm, id string) (JWK, error) {
	if !utf8.ValidString(id) {
		return JWK{}, errors.New("KeyID is not valid UTF-8")
	}
	jwk := JWK{Use: "sig", KeyID: id, Algorithm: algorithm}
	encode := base64.RawURLEncoding.EncodeToString
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		jwk.KeyType, jwk.N, jwk.E = "RSA", encode(pub.N.Bytes()), encode(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		key, err := pub.ECDH()
		if err != nil {
			return JWK{}, errors.New("an ECDSA key that is no point on P-256, P-384 or P-521 has no JWK")
		}
		xy := key.Bytes()[1:] // past the 4 that marks an uncompressed point (SEC 1 §2.3.3): x and y, of equal width
		jwk.KeyType, jwk.Curve, jwk.X, jwk.Y = "EC", pub.Params().Name, encode(xy[:len(xy)/2]), encode(xy[len(xy)/2:])
	case ed25519.PublicKey:
		jwk.KeyType, jwk.Curve, jwk.X = "OKP", "Ed25519", encode(pub)
	default:
		return JWK{}, unknownType(pub)
	}
	if id == "" {
		jwk.KeyID = jwk.thumbprint()
	}
	return jwk, nil
}

// thumbprint returns the SHA-256 thumbprint (RFC 7638) in base64url.
func (j JWK) thumbprint() string {
	// RFC 7638 §3: the members that make up the key, in the order of their
	// names. They are strings, for which Marshal has no error.
	text, _ := json.Marshal(struct {
		Curve   string `json:"crv,omitempty"`
		E       string `json:"e,omitempty"`
		KeyType string `json:"kty"`
		N       string `json:"n,omitempty"`
		X       string `json:"x,omitempty"`
		Y       string `json:"y,omitempty"`
	}{j.Curve, j.E, j.KeyType, j.N, j.X, j.Y})
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Set returns the JWK Set of keys (RFC 7517 §5), indented for people who paste
// it, without a newline at its end.
func Set(keys ...JWK) ([]byte, error) {
	return json.MarshalIndent(struct {
		Keys []JWK `json:"keys"`
	}{keys}, "", "  ")
}
