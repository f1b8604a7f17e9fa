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
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey  = sync.OnceValue(func() *ecdsa.PrivateKey { return newEC(elliptic.P256()) })
	edKey  = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)) })
)

// keyKinds has a key for each algorithm.
var keyKinds = []struct {
	name string
	key  func() crypto.Signer
}{
	{"RS256", func() crypto.Signer { return rsaKey() }},
	{"PS256", func() crypto.Signer { return rsaKey() }},
	{"ES256", func() crypto.Signer { return ecKey() }},
	{"EdDSA", func() crypto.Signer { return edKey() }},
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 999_999_999, time.UTC)

func claims() (clientID, audience string, at time.Time) {
	return "client-1", "https://api.eu.transmitsecurity.io/oidc/token", now
}

func TestAnAssertionSaysExactlyWhatMosaicDocuments(t *testing.T) {
	for _, alg := range keyKinds {
		t.Run(alg.name, func(t *testing.T) {
			key := newKey(t, alg.key(), alg.name, "kid-1")
			assertion, err := key.Sign(claims())
			if err != nil {
				t.Fatal(err)
			}
			header, payload := open(t, key.Public, assertion)
			wantHeader := map[string]any{"alg": alg.name, "typ": "JWT", "kid": "kid-1"}
			if !maps.Equal(header, wantHeader) {
				t.Errorf("header: got %v; want %v", header, wantHeader)
			}
			jti, _ := payload["jti"].(string)
			if len(jti) < 26 { // 26 characters of base32 are 130 bits
				t.Errorf("jti: got %q; want at least 128 bits", jti)
			}
			delete(payload, "jti")
			wantPayload := map[string]any{
				"iss": "client-1",
				"sub": "client-1",
				"aud": "https://api.eu.transmitsecurity.io/oidc/token",
				"iat": json.Number("1772366390"), // 11:59:50
				"exp": json.Number("1772366460"), // 12:01:00
			}
			if !maps.Equal(payload, wantPayload) {
				t.Errorf("claims: got %v; want %v", payload, wantPayload)
			}
		})
	}
}

// hidden is a signer that is known only by its Public, as a KMS's is. It notes
// what it is asked for.
type hidden struct {
	crypto.Signer
	random io.Reader
	input  []byte
	opts   crypto.SignerOpts
}

func (h *hidden) Sign(random io.Reader, input []byte, opts crypto.SignerOpts) ([]byte, error) {
	h.random, h.input, h.opts = random, bytes.Clone(input), opts
	return h.Signer.Sign(random, input, opts)
}

func TestASignerOfAnUnknownTypeIsAskedForWhatItsPublicKeyNeeds(t *testing.T) {
	for _, alg := range keyKinds {
		t.Run(alg.name, func(t *testing.T) {
			signer := &hidden{Signer: alg.key()}
			key := newKey(t, signer, alg.name, "")
			assertion, err := key.Sign(claims())
			if err != nil {
				t.Fatal(err)
			}
			open(t, key.Public, assertion)

			signingString := []byte(assertion[:strings.LastIndexByte(assertion, '.')])
			digest := sha256.Sum256(signingString)
			wantInput, wantHash := digest[:], crypto.SHA256
			if alg.name == "EdDSA" {
				wantInput, wantHash = signingString, 0
			}
			if !bytes.Equal(signer.input, wantInput) {
				t.Errorf("asked to sign %x; want %x", signer.input, wantInput)
			}
			if got := signer.opts.HashFunc(); got != wantHash {
				t.Errorf("asked for hash %v; want %v", got, wantHash)
			}
			if signer.random != rand.Reader {
				t.Errorf("given randomness from %T; want crypto/rand", signer.random)
			}
			pss, ok := signer.opts.(*rsa.PSSOptions)
			if ok != (alg.name == "PS256") {
				t.Errorf("asked with options of type %T", signer.opts)
			}
			if ok && pss.SaltLength != rsa.PSSSaltLengthEqualsHash {
				t.Errorf("asked for salt length %d; want that of the hash", pss.SaltLength)
			}
		})
	}
}

// signFunc is a signer with the public key pub that signs by a function.
type signFunc struct {
	pub  crypto.PublicKey
	sign func(random io.Reader, input []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (s signFunc) Public() crypto.PublicKey { return s.pub }

func (s signFunc) Sign(random io.Reader, input []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(random, input, opts)
}

func TestAShortROrSIsPadded(t *testing.T) {
	got, err := fixedWidth(must(asn1.Marshal(signature{big.NewInt(1), big.NewInt(2)})))
	want := make([]byte, 64)
	want[31], want[63] = 1, 2
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, error %v; want %x", got, err, want)
	}
}

func TestASignatureThatAServerWouldRefuseIsAnError(t *testing.T) {
	otherEC := newEC(elliptic.P256())
	otherRSA := must(rsa.GenerateKey(rand.Reader, 2048))
	_, otherEd, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	type sign = func(random io.Reader, input []byte, opts crypto.SignerOpts) ([]byte, error)
	der := func(r, s *big.Int) sign {
		return func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
			return asn1.Marshal(signature{r, s})
		}
	}
	altered := func(alter func(der []byte) []byte) sign {
		return func(random io.Reader, input []byte, opts crypto.SignerOpts) ([]byte, error) {
			der, err := ecKey().Sign(random, input, opts)
			return alter(der), err
		}
	}
	one, huge := big.NewInt(1), new(big.Int).Lsh(big.NewInt(1), 256)
	const notDER = "PrivateKey did not return a P-256 signature in ASN.1 DER, as a crypto.Signer must"
	mismatch := func(algorithm string) string {
		return "PrivateKey's " + algorithm + " signature does not verify with its own public key: " +
			"its name or alias may now stand for another key, or it did not sign as it was asked to"
	}
	for _, test := range []struct {
		name, algorithm string
		pub             crypto.PublicKey
		sign            sign
		want            string
	}{
		{"another RSA key", "RS256", rsaKey().Public(), otherRSA.Sign, mismatch("RS256")},
		{"another RSA key", "PS256", rsaKey().Public(), otherRSA.Sign, mismatch("PS256")},
		{"another ECDSA key", "ES256", ecKey().Public(), otherEC.Sign, mismatch("ES256")},
		{"short Ed25519 public key", "EdDSA", ed25519.PublicKey("short"), edKey().Sign, mismatch("EdDSA")},
		{"another Ed25519 key", "EdDSA", edKey().Public(), otherEd.Sign, mismatch("EdDSA")},
		{"PKCS #1 v1.5 in place of PSS", "PS256", rsaKey().Public(), func(random io.Reader, input []byte, _ crypto.SignerOpts) ([]byte, error) {
			return rsaKey().Sign(random, input, crypto.SHA256)
		}, mismatch("PS256")},
		{"Java's default salt", "PS256", rsaKey().Public(), func(random io.Reader, input []byte, _ crypto.SignerOpts) ([]byte, error) {
			return rsaKey().Sign(random, input, &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA256})
		}, mismatch("PS256")},
		{"garbage", "ES256", ecKey().Public(), func(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return []byte("garbage"), nil }, notDER},
		{"r and s of fixed width", "ES256", ecKey().Public(), altered(func(der []byte) []byte { return must(fixedWidth(der)) }), notDER},
		{"r is zero", "ES256", ecKey().Public(), der(new(big.Int), one), mismatch("ES256")},
		{"r is negative", "ES256", ecKey().Public(), der(big.NewInt(-1), one), mismatch("ES256")},
		{"r is 2^256", "ES256", ecKey().Public(), der(huge, one), notDER},
		{"s is 2^256", "ES256", ecKey().Public(), der(one, huge), notDER},
		{"r is 2^256-1", "ES256", ecKey().Public(), der(new(big.Int).Sub(huge, one), one), mismatch("ES256")},
	} {
		t.Run(test.algorithm+", "+test.name, func(t *testing.T) {
			key := newKey(t, signFunc{test.pub, test.sign}, test.algorithm, "")
			assertion, err := key.Sign(claims())
			if got := fmt.Sprint(err); got != test.want {
				t.Errorf("got error %q; want %q", got, test.want)
			}
			if assertion != "" {
				t.Errorf("got assertion %q beside the error", assertion)
			}
		})
	}
}

type panics struct{ crypto.Signer }

func (panics) Public() crypto.PublicKey { panic("a secret of the signer's") }

func TestAKeyThatCannotSignIsRefusedAtOnce(t *testing.T) {
	with := func(pub crypto.PublicKey) crypto.Signer { return signFunc{pub: pub} }
	small := rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2046, 1), E: 65537}
	p224 := newEC(elliptic.P224())
	mixed := newEC(elliptic.P384()).PublicKey
	mixed.Curve = elliptic.P256()
	const (
		empty   = "is empty or broken: its public key cannot be read"
		noPoint = "is not a valid ECDSA key on P-256, P-384 or P-521"
		types   = "; want *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey"
	)
	for _, test := range []struct {
		name   string
		signer crypto.Signer
		want   string
	}{
		{"nil", nil, empty},
		{"typed nil RSA", (*rsa.PrivateKey)(nil), empty},
		{"typed nil Ed25519", ed25519.PrivateKey(nil), "is an ed25519.PrivateKey of 0 bytes; want 64 (of a seed, ed25519.NewKeyFromSeed makes one)"},
		{"empty RSA", new(rsa.PrivateKey), empty},
		{"empty ECDSA", new(ecdsa.PrivateKey), noPoint},
		{"Ed25519 seed", ed25519.PrivateKey(edKey().Seed()), "is an ed25519.PrivateKey of 32 bytes; want 64 (of a seed, ed25519.NewKeyFromSeed makes one)"},
		{"Public panics", panics{}, empty},
		{"no public key", with(nil), "is not usable: its public key is of type <nil>" + types},
		{"typed nil RSA public key", with((*rsa.PublicKey)(nil)), empty},
		{"RSA public key by value", with(rsaKey().PublicKey), "is not usable: its public key is of type rsa.PublicKey" + types},
		{"a secret", with([]byte("secret")), "is not usable: its public key is of type []uint8" + types},
		{"RSA of 2047 bits", with(&small), "is an RSA key of 2047 bits; want at least 2048 (RFC 7518 §3.3)"},
		{"curve without a point", with(&ecdsa.PublicKey{Curve: elliptic.P256()}), empty},
		{"P-224", p224, noPoint},
		{"point of another curve", with(&mixed), noPoint},
	} {
		t.Run(test.name, func(t *testing.T) {
			pub, err := PublicKey(test.signer)
			if got := fmt.Sprint(err); got != test.want {
				t.Errorf("got error %q; want %q", got, test.want)
			}
			if pub != nil {
				t.Errorf("got key %v beside the error", pub)
			}
		})
	}
}

func TestAnAlgorithmHasToFitItsKey(t *testing.T) {
	p384 := newEC(elliptic.P384()).Public()
	const rsaOnly = "does not fit the key, which signs with RS256 or PS256"
	onCurve := func(name string) string {
		return "PrivateKey is an ECDSA key on " + name + ", for which there is no algorithm: ES256 needs P-256"
	}
	for _, test := range []struct {
		key        string
		pub        crypto.PublicKey
		name       string
		want, fail string
	}{
		{"RSA", rsaKey().Public(), "", "RS256", ""},
		{"RSA", rsaKey().Public(), "PS256", "PS256", ""},
		{"RSA", rsaKey().Public(), "ES256", "", `SigningAlgorithm "ES256" ` + rsaOnly},
		{"P-256", ecKey().Public(), "", "ES256", ""},
		{"P-256", ecKey().Public(), "RS256", "", `SigningAlgorithm "RS256" does not fit the key, which signs with ES256`},
		{"P-384", p384, "", "", onCurve("P-384")},
		{"Ed25519", edKey().Public(), "", "EdDSA", ""},
		{"RSA", rsaKey().Public(), "none", "", `SigningAlgorithm "none" is not one of RS256, PS256, ES256, EdDSA`},
		{"P-384", p384, "ES384", "", `SigningAlgorithm "ES384" is not one of RS256, PS256, ES256, EdDSA`},
		{"RSA", rsaKey().Public(), "rs256", "", `SigningAlgorithm "rs256" is not one of RS256, PS256, ES256, EdDSA`},
		{"RSA", rsaKey().Public(), "RS256\n", "", `SigningAlgorithm "RS256\n" is not one of RS256, PS256, ES256, EdDSA`},
		{"RSA", rsaKey().Public(), strings.Repeat("x", 65), "", `SigningAlgorithm "` + strings.Repeat("x", 64) + `" is not one of RS256, PS256, ES256, EdDSA`},
	} {
		t.Run(test.key+" "+test.name, func(t *testing.T) {
			got, err := find(test.pub, test.name)
			if err == nil && got.Alg() != test.want {
				t.Errorf("got %q; want %q", got.Alg(), test.want)
			}
			if err == nil && test.fail != "" || err != nil && err.Error() != test.fail {
				t.Errorf("got error %v; want %q", err, test.fail)
			}
		})
	}
	if _, err := NewKey(newEC(elliptic.P384()), p384, "", ""); fmt.Sprint(err) != onCurve("P-384") {
		t.Errorf("NewKey: got error %v; want %q", err, onCurve("P-384"))
	}
}

// The keys below are those of the RFCs.
func rfc7515EC(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), decode(t, "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rfc8037Ed(t testing.TB) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(decode(t, "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"))
}

func TestThumbprintsAreThoseOfTheRFCs(t *testing.T) {
	n := new(big.Int).SetBytes(decode(t, "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"))
	// No RFC has one for EC: this is RFC 7638 §3 by hand for the key of RFC 7515 A.3.
	ec := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`))
	for _, test := range []struct {
		name string
		pub  crypto.PublicKey
		want string
	}{
		{"RFC 7638 §3.1", &rsa.PublicKey{N: n, E: 65537}, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{"RFC 8037 A.3", rfc8037Ed(t).Public(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
		{"RFC 7515 A.3", rfc7515EC(t).Public(), base64.RawURLEncoding.EncodeToString(ec[:])},
	} {
		if got := thumbprintOf(test.pub); got != test.want {
			t.Errorf("%s: got %q; want %q", test.name, got, test.want)
		}
	}
}

func TestAJWKSetIsWhatAnAdministratorPastes(t *testing.T) {
	ed := newKey(t, rfc8037Ed(t), "", "")
	ec := NewJWK(rfc7515EC(t).Public(), "", "<kid> & \"co\"")
	n := new(big.Int).SetBytes(decode(t, "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"))
	rsaJWK := NewJWK(&rsa.PublicKey{N: n, E: 65537}, "PS256", "rsa") // of RFC 7515 A.2
	rsaJWK.X5C = [][]byte{{0xfb, 0xff}, {0x30}}
	got, err := Set([]JWK{ed.JWK, ec, rsaJWK})
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "keys": [
    {
      "kty": "OKP",
      "use": "sig",
      "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
      "alg": "EdDSA",
      "crv": "Ed25519",
      "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    },
    {
      "kty": "EC",
      "use": "sig",
      "kid": "\u003ckid\u003e \u0026 \"co\"",
      "crv": "P-256",
      "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
      "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    },
    {
      "kty": "RSA",
      "use": "sig",
      "kid": "rsa",
      "alg": "PS256",
      "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
      "e": "AQAB",
      "x5c": [
        "+/8=",
        "MA=="
      ]
    }
  ]
}`
	if string(got) != want {
		t.Errorf("got %s; want %s", got, want)
	}

}

func TestECCoordinatesAreHalvesOfThePoint(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		pub := newEC(curve).PublicKey
		point := must(pub.Bytes())
		jwk := NewJWK(&pub, "", "kid")
		x, y := decode(t, jwk.X), decode(t, jwk.Y)
		if len(x) != len(y) || !bytes.Equal(append(x, y...), point[1:]) || jwk.Curve != curve.Params().Name {
			t.Errorf("got %+v; want the halves of %x on %s", jwk, point, curve.Params().Name)
		}
	}
}

func FuzzAssertion(f *testing.F) {
	f.Add("client-1", "https://api.eu.transmitsecurity.io/oidc/token", "kid-1", int64(1772366400), uint32(0))
	f.Add(`"quoted" \ <&>`, "https://münchen.example/?a=b&c=d#\u2028", "{\"alg\":\"none\"}", int64(1), uint32(999_999_999))
	f.Add("", "", "", int64(-1), uint32(1))
	f.Add("\x00\n\t\u202e\U0001f511", "\xff", "a.b.c", int64(253402300799), uint32(5))
	f.Fuzz(func(t *testing.T, clientID, audience, id string, seconds int64, nanoseconds uint32) {
		if seconds < -1<<40 || seconds > 1<<40 {
			t.Skip("no clock shows a time 35,000 years off")
		}
		wantID := id
		if id == "" {
			wantID = thumbprintOf(edKey().Public())
		}
		key := newKey(t, edKey(), "", id)
		now := time.Unix(seconds, int64(nanoseconds%1e9))
		assertion, err := key.Sign(clientID, audience, now)
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(clientID) || !utf8.ValidString(audience) || !utf8.ValidString(id) {
			return // which Config.Validate refuses
		}
		header, payload := open(t, key.Public, assertion)
		if want := map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": wantID}; !maps.Equal(header, want) {
			t.Errorf("header: got %v; want %v", header, want)
		}
		want := map[string]any{
			"iss": clientID,
			"sub": clientID,
			"aud": audience,
			"iat": json.Number(fmt.Sprint(seconds - 10)),
			"exp": json.Number(fmt.Sprint(seconds + 60)),
			"jti": payload["jti"],
		}
		if !maps.Equal(payload, want) {
			t.Errorf("claims: got %v; want %v", payload, want)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("assertion: " + err.Error())
	}
	return v
}

func newEC(curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))
}

func newKey(t testing.TB, signer crypto.Signer, algorithm, id string) *Key {
	t.Helper()
	public, err := PublicKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey(signer, public, algorithm, id)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func decode(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatalf("%q is not base64url: %v", s, err)
	}
	return b
}

type signature struct{ R, S *big.Int }

// open takes an assertion apart as a strict server without golang-jwt would.
func open(t testing.TB, pub crypto.PublicKey, assertion string) (header, payload map[string]any) {
	t.Helper()
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		t.Fatalf("got %q; want three parts", assertion)
	}
	for i, v := range []*map[string]any{&header, &payload} {
		d := json.NewDecoder(bytes.NewReader(decode(t, parts[i])))
		d.UseNumber()
		if err := d.Decode(v); err != nil {
			t.Fatal(err)
		}
	}

	sig, message := decode(t, parts[2]), []byte(parts[0]+"."+parts[1])
	digest := sha256.Sum256(message)
	ok := false
	switch header["alg"] {
	case "RS256":
		ok = rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig) == nil
	case "PS256":
		ok = rsa.VerifyPSS(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: 32}) == nil
	case "ES256":
		ok = len(sig) == 64 && ecdsa.Verify(pub.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case "EdDSA":
		ok = ed25519.Verify(pub.(ed25519.PublicKey), message, sig)
	}
	if !ok {
		t.Fatalf("the signature of %q does not verify", assertion)
	}
	return header, payload
}

// thumbprintOf returns the kid that a key has by itself.
func thumbprintOf(pub crypto.PublicKey) string { return NewJWK(pub, "", "").KeyID }
