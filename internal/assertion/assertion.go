// Package assertion makes the JWTs with which a client authenticates by a
// private key (RFC 7521, RFC 7523), signed with any crypto.Signer, and the JWK
// Set (RFC 7517) by which a server knows the key.
//
// Its errors name the fields of the Config that the values come from.
package assertion

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// Type is the client_assertion_type of a JWT (RFC 7523 §2.2).
const Type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// An assertion is used at once. A minute leaves room for a slow network and for
// clocks that are a little apart; longer, and a stolen one would be of use, and
// servers that bound the lifetime would refuse it.
const lifetime = time.Minute

// backdate keeps a server whose clock is behind from refusing an assertion of
// its future. More would look stale to servers that are strict about age.
const backdate = 10 * time.Second

// minRSA is what RFC 7518 §3.3 and §3.5 ask for, in bits.
const minRSA = 2048

// PublicKey returns the public key of signer: an *rsa.PublicKey, an
// *ecdsa.PublicKey on P-256, P-384 or P-521, or an ed25519.PublicKey. An error
// says what is wrong with signer as a client's key. A panic of its Public
// method, as of most empty keys, is such an error too.
func PublicKey(signer crypto.Signer) (pub crypto.PublicKey, err error) {
	if signer == nil {
		return nil, errors.New("PrivateKey is nil")
	}
	defer func() {
		if recover() != nil {
			pub, err = nil, errors.New("PrivateKey's public key cannot be read: the key is empty or broken")
		}
	}()

	// Of a seed, or any slice of 32 bytes or more, Public makes what looks like a key.
	if p, ok := signer.(*ed25519.PrivateKey); ok {
		signer = *p
	}
	if key, ok := signer.(ed25519.PrivateKey); ok && len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("PrivateKey is an ed25519.PrivateKey of %d bytes; want %d (of a seed, ed25519.NewKeyFromSeed makes one)",
			len(key), ed25519.PrivateKeySize)
	}
	pub = signer.Public()
	switch key := pub.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return nil, fmt.Errorf("PrivateKey is an RSA key of %d bits; want at least %d (RFC 7518 §3.3)", bits, minRSA)
		}
	case *ecdsa.PublicKey:
		if _, err := key.ECDH(); err != nil {
			return nil, errors.New("PrivateKey is an ECDSA key that is no point on P-256, P-384 or P-521")
		}
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("PrivateKey's Ed25519 public key has %d bytes; want %d", len(key), ed25519.PublicKeySize)
		}
	default:
		return nil, fmt.Errorf("PrivateKey's %w", unknownType(pub))
	}
	return pub, nil
}

func unknownType(pub crypto.PublicKey) error {
	return fmt.Errorf("public key is of type %T; want *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey", pub)
}

// methods has what golang-jwt knows of each algorithm. Its own PS256 would take
// a salt of any length.
var methods = map[string]jwt.SigningMethod{
	"RS256": jwt.SigningMethodRS256,
	"PS256": &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA,
		Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256},
	},
	"ES256": jwt.SigningMethodES256,
	"EdDSA": jwt.SigningMethodEdDSA,
}

// Known reports whether name is that of an algorithm that some key signs by.
func Known(name string) bool { return methods[name] != nil }

// Algorithm returns name if pub, which [PublicKey] returned, can sign by it.
// The empty name is RS256 for RSA, ES256 for P-256 and EdDSA for Ed25519.
func Algorithm(pub crypto.PublicKey, name string) (string, error) {
	if name != "" && !Known(name) {
		return "", fmt.Errorf("SigningAlgorithm %.64q is not one of RS256, PS256, ES256, EdDSA", name)
	}
	var fit []string // the default first
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		fit = []string{"RS256", "PS256"}
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return "", fmt.Errorf("PrivateKey is an ECDSA key on %s: ES256 needs P-256, and there is no algorithm for that curve", pub.Params().Name)
		}
		fit = []string{"ES256"}
	case ed25519.PublicKey:
		fit = []string{"EdDSA"}
	default:
		return "", unknownType(pub)
	}
	switch {
	case name == "":
		return fit[0], nil
	case !slices.Contains(fit, name):
		return "", fmt.Errorf("SigningAlgorithm %q does not fit the type of PrivateKey, which signs by %s", name, strings.Join(fit, " or "))
	}
	return name, nil
}

// A Key signs assertions; [NewKey] makes one. It may be used by several
// goroutines at once if its Signer may.
type Key struct {
	Signer    crypto.Signer
	Public    crypto.PublicKey // of Signer, when the Key was made
	Algorithm string
	ID        string // the kid
}

// NewKey returns the Key that signs with signer. The empty algorithm is the
// default of [Algorithm], the empty id the key's RFC 7638 SHA-256 thumbprint.
func NewKey(signer crypto.Signer, algorithm, id string) (*Key, error) {
	pub, err := PublicKey(signer)
	if err != nil {
		return nil, err
	}
	if algorithm, err = Algorithm(pub, algorithm); err != nil {
		return nil, err
	}
	jwk, err := NewJWK(pub, algorithm, id)
	if err != nil {
		return nil, err
	}
	return &Key{Signer: signer, Public: pub, Algorithm: algorithm, ID: jwk.KeyID}, nil
}

// JWK returns the public key as a server is to have it.
func (k *Key) JWK() JWK {
	jwk, _ := NewJWK(k.Public, k.Algorithm, k.ID) // NewKey has seen that there is no error
	return jwk
}

// Claims is what differs from one assertion to the next.
type Claims struct {
	ClientID string    // iss and sub
	Audience string    // aud
	Now      time.Time // on the server's clock, where that is known
}

// Sign returns a new assertion, valid until a minute after c.Now, to the second.
// An error of the signer is wrapped; a panic of it is not recovered. Text that
// is not UTF-8 is refused, for JSON would change it.
func (k *Key) Sign(c Claims) (string, error) {
	if !utf8.ValidString(c.ClientID) || !utf8.ValidString(c.Audience) {
		return "", errors.New("ClientID or AssertionAudience is not valid UTF-8")
	}
	// jwt.RegisteredClaims would make aud an array, which some servers refuse.
	token := jwt.NewWithClaims(methods[k.Algorithm], jwt.MapClaims{
		"iss": c.ClientID,
		"sub": c.ClientID,
		"aud": c.Audience,
		"iat": c.Now.Add(-backdate).Unix(),
		"exp": c.Now.Add(lifetime).Unix(),
		"jti": rand.Text(),
	})
	token.Header["kid"] = k.ID
	signingString, err := token.SigningString()
	if err != nil {
		return "", err
	}
	signature, err := k.signature(signingString)
	if err != nil {
		return "", err
	}
	return signingString + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// signature returns the JWS signature of signingString (RFC 7518 §3). golang-jwt
// signs with its own types of key alone, so the signer is asked directly.
func (k *Key) signature(signingString string) ([]byte, error) {
	digest := sha256.Sum256([]byte(signingString))
	input, opts := digest[:], crypto.SignerOpts(crypto.SHA256)
	switch k.Algorithm {
	case "PS256":
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	case "EdDSA":
		input, opts = []byte(signingString), crypto.Hash(0)
	}
	signature, err := k.Signer.Sign(rand.Reader, input, opts)
	if err != nil {
		return nil, fmt.Errorf("PrivateKey could not sign: %w", err)
	}
	if k.Algorithm == "ES256" {
		if signature, err = fixedWidth(signature); err != nil {
			return nil, err
		}
	}
	// A server would say invalid_client and nothing else.
	if methods[k.Algorithm].Verify(signingString, signature, k.Public) != nil {
		return nil, fmt.Errorf("PrivateKey's %s signature does not verify with its own public key: "+
			"its name or alias may now stand for another key, or it did not sign as it was asked to", k.Algorithm)
	}
	return signature, nil
}

// fixedWidth turns an ECDSA signature in DER, as a crypto.Signer returns it,
// into the 32 bytes of r and the 32 of s that RFC 7518 §3.4 has for ES256.
func fixedWidth(der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	_, err := asn1.Unmarshal(der, &sig)
	strict, _ := asn1.Marshal(sig) // Unmarshal lets bytes behind the two pass
	if err != nil || !bytes.Equal(strict, der) || sig.R.Sign() < 1 || sig.S.Sign() < 1 || max(sig.R.BitLen(), sig.S.BitLen()) > 256 {
		return nil, errors.New("PrivateKey did not return a P-256 signature in ASN.1 DER, as a crypto.Signer must")
	}
	fixed := make([]byte, 64)
	sig.R.FillBytes(fixed[:32])
	sig.S.FillBytes(fixed[32:])
	return fixed, nil
}
