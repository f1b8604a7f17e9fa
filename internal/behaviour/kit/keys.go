package kit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

// These functions return a private key of each kind. A key is made by the first call, and later calls
// return the same key.
var (
	RSA     = once(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	EC      = once(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	P384    = once(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }) // only for certificates
	Ed25519 = once(func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
)

func once(generate func() (crypto.Signer, error)) func() crypto.Signer {
	return sync.OnceValue(func() crypto.Signer {
		key, err := generate()
		if err != nil {
			panic(err)
		}
		return key
	})
}

// NewEC returns a private key on P-256. Every call returns a new key.
func NewEC(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A Signer is a crypto.Signer whose type the code under test does not know, like the signer of a KMS.
// If Before is set, it is called before each signature. If it returns an error, Sign returns that error.
type Signer struct {
	crypto.Signer
	Before func() error
}

func (s *Signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.Before != nil {
		if err := s.Before(); err != nil {
			return nil, err
		}
	}
	return s.Signer.Sign(rand, digest, opts)
}

// Certificate returns a client certificate for key. It is valid for 50 years, and signed by parent or,
// if parent is nil, by itself. If name ends with "CA", it is the certificate of a CA. The functions
// in change can change the template first.
func Certificate(t testing.TB, name string, key crypto.Signer, parent *tls.Certificate, change ...func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes([]byte(rand.Text())),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Unix(0, 0), // a bubble's clock starts in the year 2000
		NotAfter:              time.Now().AddDate(50, 0, 0),
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA:                  strings.HasSuffix(name, "CA"),
		BasicConstraintsValid: true,
	}
	for _, f := range change {
		f(template)
	}
	issuer, issuerKey, chain := template, key, [][]byte(nil)
	if parent != nil {
		issuer, issuerKey, chain = parent.Leaf, parent.PrivateKey.(crypto.Signer), parent.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key, Leaf: leaf}
}

// Lifetime, if passed to [Certificate], makes the certificate expire after d.
func Lifetime(d time.Duration) func(*x509.Certificate) {
	return func(template *x509.Certificate) { template.NotAfter = time.Now().Add(d) }
}

// KeyPEM returns key as PEM, in the format PKCS #8.
func KeyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// CertificatePEM returns cert as PEM, with the rest of its chain.
func CertificatePEM(cert *tls.Certificate) (text []byte) {
	for _, der := range cert.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}
