package assertion

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"slices"
)

// A JWK is a public key as a JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2). It has no members
// for a private key.
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

	// X5C is a certificate for this key, followed by its chain, in DER. Unlike the other members, it
	// is in standard base64 (RFC 7517 §4.7), which is what encoding/json writes.
	X5C [][]byte `json:"x5c,omitempty"`
}

// CertificateJWK returns the JWK of a certificate's key with its chain, the certificate first. Keys
// on P-384 and P-521 sign no assertions and get no alg.
func CertificateJWK(pub crypto.PublicKey, chain [][]byte) JWK {
	jwk := NewJWK(pub, "", "")
	if alg, err := find(pub, ""); err == nil {
		jwk.Algorithm = alg.Alg()
	}
	jwk.X5C = chain
	return jwk
}

// NewJWK returns the JWK of a public key from [PublicKey]. If id is empty, the key's RFC 7638 SHA-256
// thumbprint is used.
func NewJWK(pub crypto.PublicKey, algorithm, id string) JWK {
	jwk := JWK{Use: "sig", KeyID: id, Algorithm: algorithm}
	encode := base64.RawURLEncoding.EncodeToString
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		jwk.KeyType, jwk.N, jwk.E = "RSA", encode(pub.N.Bytes()), encode(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		point, _ := pub.Bytes()                                 // cannot fail, because PublicKey has checked pub
		x, y := point[1:len(point)/2+1], point[len(point)/2+1:] // after the byte 4 that marks an uncompressed point (SEC 1 §2.3.3)
		jwk.KeyType, jwk.Curve, jwk.X, jwk.Y = "EC", pub.Params().Name, encode(x), encode(y)
	case ed25519.PublicKey:
		jwk.KeyType, jwk.Curve, jwk.X = "OKP", "Ed25519", encode(pub)
	}
	if id == "" {
		jwk.KeyID = jwk.Thumbprint()
	}
	return jwk
}

// Thumbprint returns the SHA-256 thumbprint (RFC 7638) in base64url.
func (j JWK) Thumbprint() string {
	// RFC 7638 §3: the required members, ordered by name. Marshal cannot fail for strings.
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

// Set returns the JWK Set of keys (RFC 7517 §5), indented for people who paste it, without a trailing
// newline. A key with several certificate chains is in the set once for each chain. Set fails if
// different keys have the same kid.
func Set(keys []JWK) ([]byte, error) {
	var distinct []JWK
	for _, key := range keys {
		clashes := func(other JWK) bool { return other.KeyID == key.KeyID && other.Thumbprint() != key.Thumbprint() }
		if slices.ContainsFunc(distinct, clashes) {
			return nil, fmt.Errorf("two different keys have the kid %.64q", key.KeyID)
		}
		if !slices.ContainsFunc(distinct, func(other JWK) bool { return reflect.DeepEqual(other, key) }) {
			distinct = append(distinct, key)
		}
	}
	return json.MarshalIndent(struct {
		Keys []JWK `json:"keys"`
	}{distinct}, "", "  ")
}
