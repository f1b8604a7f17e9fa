package mosaictest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
)

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
	D   string `json:"d,omitempty"` // only private keys, which are refused, have a d

	X5C []string `json:"x5c,omitempty"`
}

type clientKey struct {
	alg    string
	public crypto.PublicKey
}

// parseKeys returns the keys in a JWK Set by kid. It skips the keys of certificates.
func parseKeys(jwks []byte) (map[string]clientKey, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	keys := make(map[string]clientKey)
	for i, k := range set.Keys {
		if k.Alg == "" && k.D == "" && len(k.X5C) > 0 {
			continue
		}
		public, err := k.public()
		if err != nil {
			return nil, fmt.Errorf("JWK Set: key %d: %w", i, err)
		}
		key := clientKey{k.Alg, public}
		if other, twice := keys[k.Kid]; twice && !reflect.DeepEqual(other, key) || k.Kid == "" {
			return nil, fmt.Errorf("JWK Set: key %d: kid %q is empty or belongs to another key", i, k.Kid)
		}
		keys[k.Kid] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("JWK Set: there are no keys to sign with")
	}
	return keys, nil
}

func (k jwk) public() (crypto.PublicKey, error) {
	if k.D != "" {
		return nil, errors.New("it is a private key")
	}
	if k.Use != "" && k.Use != "sig" {
		return nil, fmt.Errorf("use is %q, not \"sig\"", k.Use)
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
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	case kind == "OKP Ed25519 EdDSA" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("want a public key for RS256 or PS256 (2048 bits or more), ES256 or EdDSA, not kty %q, crv %q, alg %q", k.Kty, k.Crv, k.Alg)
}
