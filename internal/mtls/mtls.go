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
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

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
		return nil, fmt.Errorf("Certificate has a private key that %w", err)
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

// A Pool has one Transport for each certificate, by its leaf: clones of one base. It is safe for
// concurrent use.
type Pool struct {
	base *http.Transport
	log  *slog.Logger

	mu     sync.Mutex
	byLeaf map[string]weak.Pointer[Transport] // a token in service holds its Transport
}

// NewPool returns a Pool over a clone of base. The error names the transport needed.
func NewPool(base http.RoundTripper, log *slog.Logger) (*Pool, error) {
	t, ok := base.(*http.Transport)
	if !ok || t == nil {
		return nil, fmt.Errorf("an HTTP client whose Transport is an *http.Transport (this is %T)", base)
	}
	//lint:ignore SA1019 deprecated, and in force
	if t.DialTLS != nil || t.DialTLSContext != nil {
		return nil, errors.New("an HTTP client whose Transport has neither DialTLS nor DialTLSContext")
	}
	return &Pool{base: clone(t), log: log, byLeaf: make(map[string]weak.Pointer[Transport])}, nil
}

// Transport returns the Transport of cert's leaf. From now on it presents cert's key and chain.
func (p *Pool) Transport(cert *Certificate) *Transport {
	leaf := string(cert.Leaf.Raw)
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.byLeaf[leaf].Value()
	if t == nil {
		t = newTransport(p.base, p.log)
		maps.DeleteFunc(p.byLeaf, func(_ string, t weak.Pointer[Transport]) bool { return t.Value() == nil })
		p.byLeaf[leaf] = weak.Make(t)
	}
	t.present(cert)
	return t
}

// CloseIdleConnections closes those of every Transport in use.
func (p *Pool) CloseIdleConnections() {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.byLeaf))
	p.mu.Unlock() // closing a connection may block
	for _, t := range all {
		if t := t.Value(); t != nil {
			t.CloseIdleConnections()
		}
	}
}

// A Transport presents one certificate on each of its connections.
type Transport struct {
	*http.Transport
	log       *slog.Logger
	presented atomic.Pointer[tls.Certificate] // its PrivateKey is a *presentedKey
	signErr   atomic.Pointer[error]
}

// Nobody closes a clone, so its idle connections need a timeout. This is http.DefaultTransport's.
const maxIdle = 90 * time.Second

func newTransport(base *http.Transport, log *slog.Logger) *Transport {
	t := &Transport{Transport: clone(base), log: log}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = new(tls.Config)
	}
	// tls.Config.Certificates presents nothing if the server names other CAs.
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

// present makes cert the one to present: another key or chain of the same leaf.
func (t *Transport) present(cert *Certificate) {
	k := &presentedKey{cert, guard.NewCalls(guard.AtOnce), t}
	if before := t.presented.Load(); before != nil {
		if before := before.PrivateKey.(*presentedKey); assertion.SameSigner(before.signer, cert.signer) {
			k.calls = before.calls
		}
	}
	presented := cert.Certificate
	presented.PrivateKey = k
	t.presented.Store(&presented)
}

// SignErr returns the last error of the certificate's key. crypto/tls passes on its text only.
func (t *Transport) SignErr() error {
	if err := t.signErr.Load(); err != nil {
		return *err
	}
	return nil
}

// signTimeout is less than the time of an attempt in package grant, so that the error can still
// name the key. net/http ends a handshake by a context of its own.
const signTimeout = 9 * time.Second

// A presentedKey is the key of a presented certificate. net/http calls it in a goroutine of its
// own: a panic there would end the process.
type presentedKey struct {
	*Certificate
	calls *guard.Calls
	t     *Transport
}

func (k *presentedKey) Public() crypto.PublicKey { return k.Leaf.PublicKey }

func (k *presentedKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.guarded(func() ([]byte, error) { return k.signer.Sign(rand, digest, opts) })
}

// SignMessage makes it a crypto.MessageSigner, as the signer may be.
func (k *presentedKey) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.guarded(func() ([]byte, error) { return crypto.SignMessage(k.signer, rand, message, opts) })
}

func (k *presentedKey) guarded(sign func() ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	signature, err := guard.Call(ctx, k.calls, "mosaic: the private key of Certificate", k.t.log, sign)
	if err != nil {
		k.t.signErr.Store(&err)
		return nil, redact.NewForeign("", err, "") // crypto/tls calls its Error method, in a goroutine of net/http's
	}
	return signature, nil
}
