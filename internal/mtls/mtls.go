// Package mtls presents a client's certificate in the TLS handshake (RFC 8705).
package mtls

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"example.com/mosaic/internal/assertion"
)

// Problems returns what is wrong with cert as a client's certificate.
func Problems(cert *tls.Certificate) (problems []error) {
	if len(cert.Certificate) == 0 {
		return []error{errors.New("it is empty")}
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	switch {
	case err != nil:
		problems = append(problems, errors.New("it cannot be parsed"))
	case time.Now().After(leaf.NotAfter):
		problems = append(problems, fmt.Errorf("it has expired: its NotAfter is %s", leaf.NotAfter.UTC().Format(time.RFC3339)))
	}

	for i, der := range cert.Certificate[1:] {
		if _, err := x509.ParseCertificate(der); err != nil {
			problems = append(problems, fmt.Errorf("certificate %d of the chain behind it cannot be parsed", i+1))
		}
	}
	if cert.PrivateKey == nil {
		return append(problems, errors.New("it has no private key"))
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return append(problems, fmt.Errorf("its private key is a %T, which is no crypto.Signer", cert.PrivateKey))
	}
	pub, err := assertion.PublicKey(signer)
	switch {
	case err != nil:
		problems = append(problems, fmt.Errorf("its %w", err)) // "PrivateKey is …"
	case leaf != nil && !SameKey(pub, leaf.PublicKey):
		problems = append(problems, errors.New("its private key does not match it"))
	}
	return problems
}

// SameKey reports whether two public keys are one.
func SameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// Thumbprint returns the x5t#S256 of a certificate (RFC 8705 §3.1).
func Thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Bind returns a clone of base, nil being http.DefaultTransport, that presents
// cert, and shares neither connections nor TLS sessions with base. It has cert's
// key, a crypto.Signer, called by guard: net/http shakes hands in a goroutine of
// its own, where a panic would end the process.
func Bind(base http.RoundTripper, cert *tls.Certificate, guard Guard) (*http.Transport, error) {
	if base == nil {
		base = http.DefaultTransport
	}
	t, ok := base.(*http.Transport)
	switch {
	case !ok:
		return nil, fmt.Errorf("needs an HTTP client whose Transport is an *http.Transport, not a %T", base)
	case t == nil:
		return nil, errors.New("needs an HTTP client whose Transport is an *http.Transport that is not nil")
	}
	//lint:ignore SA1019 deprecated, and in force
	if t.DialTLS != nil || t.DialTLSContext != nil {
		return nil, errors.New("needs an HTTP client whose Transport has neither DialTLS nor DialTLSContext: the certificate could not be presented")
	}
	guarded := *cert
	guarded.PrivateKey = guardedSigner{cert.PrivateKey.(crypto.Signer), guard}
	clone := t.Clone()
	// An entry that was set by hand, as http2.ConfigureTransport does, leads the
	// clone into t's connections, which were opened without cert. Where t spoke
	// HTTP/2, by such an entry or by net/http's own, the clone is told to: with a
	// TLSClientConfig set it would not by itself.
	_, byHand := clone.TLSNextProto["h2"]
	if _, speaks := t.TLSNextProto["h2"]; byHand || speaks && clone.Protocols == nil {
		if clone.Protocols == nil {
			clone.Protocols = new(http.Protocols)
			clone.Protocols.SetHTTP1(true)
		}
		clone.Protocols.SetHTTP2(true)
	}
	delete(clone.TLSNextProto, "h2")
	if clone.TLSClientConfig == nil {
		clone.TLSClientConfig = new(tls.Config)
	}
	clone.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		// Whatever CAs the server names: from Certificates, Go would send
		// nothing if none of them matched.
		return &guarded, nil
	}
	clone.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0) // a session of base's would be resumed without cert
	if clone.IdleConnTimeout == 0 {
		clone.IdleConnTimeout = maxIdle
	}
	return clone, nil
}

// maxIdle is when a clone closes its idle connections if base never does: nobody
// closes a clone. It is http.DefaultTransport's.
const maxIdle = 90 * time.Second

// A Guard calls sign, which calls a signer, and returns what that does.
type Guard func(sign func() ([]byte, error)) ([]byte, error)

type guardedSigner struct {
	crypto.Signer
	guard Guard
}

func (g guardedSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return g.guard(func() ([]byte, error) { return g.Signer.Sign(rand, digest, opts) })
}

// SignMessage makes it a crypto.MessageSigner, as the Signer may be.
func (g guardedSigner) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return g.guard(func() ([]byte, error) { return crypto.SignMessage(g.Signer, rand, message, opts) })
}
