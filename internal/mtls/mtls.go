// Package mtls presents client certificates in the TLS handshake (RFC 8705).
package mtls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/redact"
)

// A Certificate is a checked client certificate. It is immutable.
type Certificate struct {
	tls.Certificate        // with its Leaf
	Thumbprint      string // the leaf's x5t#S256 (RFC 8705 §3.1)

	signer crypto.Signer
}

// New returns a copy of cert, or an error if it cannot be presented. The key's Public method is
// called here and not again.
func New(cert *tls.Certificate) (*Certificate, error) {
	if len(cert.Certificate) == 0 {
		return nil, errors.New("Certificate is empty")
	}
	c := &Certificate{Certificate: *cert}
	c.Certificate.Certificate = nil
	for i, der := range cert.Certificate {
		parsed, err := x509.ParseCertificate(bytes.Clone(der))
		if err != nil {
			return nil, fmt.Errorf("Certificate cannot be parsed (number %d of its chain)", i+1)
		}
		if i == 0 {
			c.Leaf = parsed
		}
		c.Certificate.Certificate = append(c.Certificate.Certificate, parsed.Raw)
	}
	if err := c.Expired(); err != nil {
		return nil, err
	}
	var ok bool
	if c.signer, ok = cert.PrivateKey.(crypto.Signer); !ok {
		return nil, fmt.Errorf("Certificate has no usable private key (%T): want a crypto.Signer", cert.PrivateKey)
	}
	public, err := assertion.PublicKey(c.signer)
	if err != nil {
		return nil, errors.New("Certificate: its " + strings.Replace(err.Error(), "PrivateKey", "private key", 1))
	}
	if !assertion.SameKey(public, c.Leaf.PublicKey) {
		return nil, errors.New("Certificate has a private key that does not match it")
	}
	sum := sha256.Sum256(c.Leaf.Raw)
	c.Thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	return c, nil
}

// Expired returns an error if the certificate has expired by the local clock.
func (c *Certificate) Expired() error {
	if time.Now().After(c.Leaf.NotAfter) {
		return fmt.Errorf("Certificate has expired: its NotAfter is %s", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Base returns a clone of rt, for [NewTransport]. The error names the transport needed.
func Base(rt http.RoundTripper) (*http.Transport, error) {
	t, ok := rt.(*http.Transport)
	if !ok || t == nil {
		return nil, fmt.Errorf("an HTTP client whose Transport is an *http.Transport (this is %T)", rt)
	}
	//lint:ignore SA1019 deprecated, and in force
	if t.DialTLS != nil || t.DialTLSContext != nil {
		return nil, errors.New("an HTTP client whose Transport has neither DialTLS nor DialTLSContext")
	}
	return clone(t), nil
}

// A Transport presents one certificate on each of its connections. It is safe for concurrent use.
type Transport struct {
	*http.Transport
	log       *slog.Logger
	presented atomic.Pointer[tls.Certificate] // its PrivateKey is a *presentedKey
}

// maxIdle is the idle timeout of http.DefaultTransport. A clone needs an idle timeout, because
// nobody closes it.
const maxIdle = 90 * time.Second

// NewTransport returns a Transport that shares no connection with base. [Transport.Present] must be
// called before its first use.
func NewTransport(base *http.Transport, log *slog.Logger) *Transport {
	t := &Transport{Transport: clone(base), log: log}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = new(tls.Config)
	}
	// A certificate in tls.Config.Certificates is not presented if the server names other CAs.
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return t.presented.Load(), nil
	}
	t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0) // base's sessions are without the certificate
	if t.IdleConnTimeout == 0 {
		t.IdleConnTimeout = maxIdle
	}
	return t
}

// clone returns a clone of t sharing no connection with it. An "h2" entry set by hand, as by
// http2.ConfigureTransport, would share them: it is dropped, and HTTP/2 enabled anew.
func clone(t *http.Transport) *http.Transport {
	c := t.Clone()
	_, byHand := c.TLSNextProto["h2"]
	if _, speaks := t.TLSNextProto["h2"]; byHand || speaks && c.Protocols == nil {
		if c.Protocols == nil {
			c.Protocols = new(http.Protocols)
			c.Protocols.SetHTTP1(true)
		}
		c.Protocols.SetHTTP2(true)
	}
	delete(c.TLSNextProto, "h2")
	return c
}

// Present makes cert the certificate of all connections from now on. It must have the leaf of the
// certificates before it; its key and its chain may differ.
func (t *Transport) Present(cert *Certificate) {
	key := &presentedKey{cert, guard.NewCalls(guard.AtOnce), t.log}
	if before := t.presented.Load(); before != nil {
		if before := before.PrivateKey.(*presentedKey); assertion.SameSigner(before.cert.signer, cert.signer) {
			key.calls = before.calls
		}
	}
	presented := cert.Certificate
	presented.PrivateKey = key
	t.presented.Store(&presented)
}

// signTimeout is less than the time of an attempt in package grant, so that the error can still
// name the key. net/http ends a handshake by a context of its own.
const signTimeout = 9 * time.Second

// A presentedKey is the key of a presented certificate. Its calls are guarded, because net/http
// makes them in a goroutine of its own, where a panic would end the process.
type presentedKey struct {
	cert  *Certificate
	calls guard.Calls
	log   *slog.Logger
}

func (k *presentedKey) Public() crypto.PublicKey { return k.cert.Leaf.PublicKey }

func (k *presentedKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.guarded(func() ([]byte, error) { return k.cert.signer.Sign(rand, digest, opts) })
}

// SignMessage makes presentedKey a crypto.MessageSigner, as the signer may be.
func (k *presentedKey) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.guarded(func() ([]byte, error) { return crypto.SignMessage(k.cert.signer, rand, message, opts) })
}

func (k *presentedKey) guarded(sign func() ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	signature, err := guard.Call(ctx, k.calls, "mosaic: the private key of Certificate", k.log, sign)
	if err != nil {
		return nil, redact.NewForeign("", err, "") // because crypto/tls calls the Error method, which may panic
	}
	return signature, nil
}
