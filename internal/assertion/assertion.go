// Package assertion makes client assertions (RFC 7521, RFC 7523) signed with any crypto.Signer, and
// JWK Sets (RFC 7517) of their keys.
//
// Its errors name the fields of mosaic.Config. Only the errors from [PublicKey] do not.
package assertion

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"

	"example.com/mosaic/internal/redact"
	"github.com/golang-jwt/jwt/v5"
)

// Type is the client_assertion_type of a JWT (RFC 7523 §2.2).
const Type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

const (
	// An assertion is used at once. A minute allows for a slow network and for a little clock skew. A
	// longer lifetime would help a thief, and strict servers would refuse it.
	lifetime = time.Minute

	// A server with a slow clock would refuse an assertion from its future. Servers with a strict age
	// limit would refuse a much older one.
	backdate = 10 * time.Second

	minRSA = 2048 // bits, as RFC 7518 §3.3 and §3.5 require
)

// An algorithm is a jwt.SigningMethod that signs with a [Key] of one kind.
type algorithm struct {
	jwt.SigningMethod // for verifying
	kind              string
	opts              crypto.SignerOpts
}

var pss = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256} // RFC 7518 §3.5

// algorithms are the ones that Mosaic or FAPI 2.0 allows. The first one for each kind of key is the
// default. golang-jwt's own PS256 is not used, because it accepts a salt of any length.
var algorithms = []algorithm{
	{jwt.SigningMethodRS256, "RSA", crypto.SHA256},
	{&jwt.SigningMethodRSAPSS{SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA, Options: pss}, "RSA", pss},
	{jwt.SigningMethodES256, "P-256", crypto.SHA256},
	{jwt.SigningMethodEdDSA, "Ed25519", crypto.Hash(0)},
}

// find returns the named algorithm, if it fits a key from [PublicKey]. An empty name selects the
// default.
func find(pub crypto.PublicKey, name string) (algorithm, error) {
	kind, _ := kindOf(pub)
	var fit []string
	known := name == ""
	for _, a := range algorithms {
		known = known || a.Alg() == name
		if a.kind == kind {
			if name == "" || a.Alg() == name {
				return a, nil
			}
			fit = append(fit, a.Alg())
		}
	}
	switch {
	case !known:
		return algorithm{}, fmt.Errorf("SigningAlgorithm %.64q is not one of RS256, PS256, ES256, EdDSA", name)
	case fit == nil:
		return algorithm{}, fmt.Errorf("PrivateKey is an ECDSA key on %s, for which there is no algorithm: ES256 needs P-256", kind)
	}
	return algorithm{}, fmt.Errorf("SigningAlgorithm %q does not fit the key, which signs with %s", name, strings.Join(fit, " or "))
}

// kindOf returns the kind of a client's public key: RSA, Ed25519, or the curve of an ECDSA key. It
// returns the same errors as [PublicKey].
func kindOf(pub crypto.PublicKey) (string, error) {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return "", fmt.Errorf("is an RSA key of %d bits; want at least %d (RFC 7518 §3.3)", bits, minRSA)
		}
		return "RSA", nil
	case *ecdsa.PublicKey:
		if _, err := key.ECDH(); err != nil {
			return "", errors.New("is not a valid ECDSA key on P-256, P-384 or P-521")
		}
		return key.Params().Name, nil
	case ed25519.PublicKey:
		return "Ed25519", nil
	}
	return "", fmt.Errorf("is not usable: its public key is of type %T; want *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey", pub)
}

// PublicKey returns the public key of a client's signer, or an error that says what is wrong with the
// key. It recovers if the signer's Public method panics, as happens with most empty keys. The caller
// must say in the error which key it is, because PublicKey also checks the keys of certificates.
func PublicKey(signer crypto.Signer) (pub crypto.PublicKey, err error) {
	defer func() {
		if recover() != nil {
			pub, err = nil, errors.New("is empty or broken: its public key cannot be read")
		}
	}()
	if key, ok := signer.(ed25519.PrivateKey); ok && len(key) != ed25519.PrivateKeySize { // Public returns zeros for a seed
		return nil, fmt.Errorf("is an ed25519.PrivateKey of %d bytes; want %d (of a seed, ed25519.NewKeyFromSeed makes one)",
			len(key), ed25519.PrivateKeySize)
	}
	pub = signer.Public()
	if _, err := kindOf(pub); err != nil {
		return nil, err
	}
	return pub, nil
}

// SameKey reports whether two public keys are equal.
func SameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// SameSigner reports whether two signers are the same object.
func SameSigner(a, b crypto.Signer) bool {
	return reflect.ValueOf(a).Comparable() && a == b
}

// A Key signs assertions. [NewKey] makes one. It is safe for concurrent use if its Signer is.
type Key struct {
	Signer    crypto.Signer
	Public    crypto.PublicKey // Signer's public key when the Key was made
	JWK       JWK              // its KeyID is the kid of assertions
	algorithm algorithm
}

// NewKey returns a Key that signs with signer. public is the result of [PublicKey] for signer. If
// algorithm is empty, it is the default for this kind of key; if id is empty, it is the key's RFC
// 7638 SHA-256 thumbprint. The id must be valid UTF-8, because JSON would otherwise change it.
func NewKey(signer crypto.Signer, public crypto.PublicKey, algorithm, id string) (*Key, error) {
	alg, err := find(public, algorithm)
	if err != nil {
		return nil, err
	}
	return &Key{signer, public, NewJWK(public, alg.Alg(), id), alg}, nil
}

// Sign returns a new assertion of clientID for audience. It is valid until a minute after now,
// rounded down to seconds. now should be the server's time, if known. Errors from the signer are
// wrapped; panics in it are not recovered.
func (k *Key) Sign(clientID, audience string, now time.Time) (string, error) {
	// Some servers refuse aud as an array, as jwt.RegisteredClaims would write it.
	token := jwt.NewWithClaims(k.algorithm, jwt.MapClaims{
		"iss": clientID,
		"sub": clientID,
		"aud": audience,
		"iat": now.Add(-backdate).Unix(),
		"exp": now.Add(lifetime).Unix(),
		"jti": rand.Text(),
	})
	token.Header["kid"] = k.JWK.KeyID
	return token.SignedString(k)
}

// Sign returns the JWS signature of signingString by key, a *Key (RFC 7518 §3). golang-jwt signs
// only with its own types of key, so Sign calls the signer directly.
func (a algorithm) Sign(signingString string, key any) ([]byte, error) {
	k := key.(*Key)
	signature, err := crypto.SignMessage(k.Signer, rand.Reader, []byte(signingString), a.opts)
	if err != nil {
		return nil, redact.NewForeign("PrivateKey could not sign: ", err, "")
	}
	if a.kind == "P-256" {
		if signature, err = fixedWidth(signature); err != nil {
			return nil, err
		}
	}
	// Check the signature here, because a server would only say invalid_client.
	if a.Verify(signingString, signature, k.Public) != nil {
		return nil, fmt.Errorf("PrivateKey's %s signature does not verify with its own public key: "+
			"its name or alias may now stand for another key, or it did not sign as it was asked to", a.Alg())
	}
	return signature, nil
}

// fixedWidth turns an ECDSA signature in DER, as returned by a crypto.Signer, into r and s of 32
// bytes each, as in RFC 7518 §3.4.
func fixedWidth(der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil || max(sig.R.BitLen(), sig.S.BitLen()) > 256 {
		return nil, errors.New("PrivateKey did not return a P-256 signature in ASN.1 DER, as a crypto.Signer must")
	}
	fixed := make([]byte, 64)
	sig.R.FillBytes(fixed[:32])
	sig.S.FillBytes(fixed[32:])
	return fixed, nil
}
