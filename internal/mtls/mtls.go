// Package mtls presents client certificates in the TLS handshake (RFC 8705).
package mtls

import (
	"bytes"
	"cmp"
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
	"sync/atomic"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/reconnect"
	"example.com/mosaic/internal/redact"
)

// A Certificate is a checked client certificate. It is immutable.
type Certificate struct {
	tls.Certificate        // its Leaf is set
	Thumbprint      string // the leaf's x5t#S256 (RFC 8705 §3.1)

	signer crypto.Signer
}

// tolerance is how far ahead a certificate's NotBefore may be, because clocks can differ by minutes.
// CAs backdate certificates by as much.
const tolerance = 5 * time.Minute

// New returns a copy of cert, or an error if cert cannot be presented. It calls the key's Public
// method, which is not called again.
func New(cert *tls.Certificate) (*Certificate, error) {
	if len(cert.Certificate) == 0 {
		return nil, errors.New("Certificate is empty")
	}
	c := &Certificate{Certificate: *cert}
	c.Certificate.Certificate = nil
	for _, der := range cert.Certificate {
		c.Certificate.Certificate = append(c.Certificate.Certificate, bytes.Clone(der))
	}
	var ok bool
	if c.signer, ok = cert.PrivateKey.(crypto.Signer); !ok {
		return nil, fmt.Errorf("Certificate has no usable private key (%T): want a crypto.Signer", cert.PrivateKey)
	}
	public, err := assertion.PublicKey(c.signer)
	if err != nil {
		return nil, fmt.Errorf("Certificate has a private key that %w", err)
	}
	if c.Leaf, err = Leaf(c.Certificate.Certificate, public); err != nil {
		return nil, fmt.Errorf("Certificate: %w", err)
	}
	if err := c.Valid(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(c.Leaf.Raw)
	c.Thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	return c, nil
}

// Leaf returns the first certificate of a chain. It fails if the public key belongs to a different one.
func Leaf(chain [][]byte, public crypto.PublicKey) (leaf *x509.Certificate, err error) {
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			return nil, fmt.Errorf("number %d of the chain cannot be parsed", i+1)
		case i == 0:
			leaf = cert
		case !assertion.SameKey(public, leaf.PublicKey) && assertion.SameKey(public, cert.PublicKey):
			return nil, fmt.Errorf("the leaf has to come first, but the private key belongs to number %d of the chain (%s)", i+1, redact.Own(cert.Subject.String(), "", 100))
		}
	}
	if !assertion.SameKey(public, leaf.PublicKey) {
		return nil, errors.New("the private key does not match it")
	}
	return leaf, nil
}

// Valid returns an error if the certificate has expired or is not valid yet by the local clock. It
// returns nil for a nil certificate.
func (c *Certificate) Valid() error {
	switch now := time.Now(); {
	case c == nil:
	case now.After(c.Leaf.NotAfter):
		return fmt.Errorf("Certificate has expired: its NotAfter is %s", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Add(tolerance).Before(c.Leaf.NotBefore):
		return fmt.Errorf("Certificate is not valid yet: its NotBefore is %s", c.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// Base returns a clone of rt, for [NewTransport]. The error says what kind of transport is needed.
func Base(rt http.RoundTripper) (*http.Transport, error) {
	t, ok := rt.(*http.Transport)
	if !ok || t == nil {
		return nil, fmt.Errorf("an HTTP client whose Transport is an *http.Transport (this is %T)", rt)
	}
	//lint:ignore SA1019 deprecated, but net/http still uses it
	if t.DialTLS != nil || t.DialTLSContext != nil {
		return nil, errors.New("an HTTP client whose Transport has neither DialTLS nor DialTLSContext")
	}
	return clone(t), nil
}

// A Transport presents one certificate on each of its connections. It is safe for concurrent use.
type Transport struct {
	*http.Transport
	APICalls reconnect.Sender // not used for token requests

	log       *slog.Logger
	presented atomic.Pointer[presentedKey]
}

// maxIdle is the idle timeout of http.DefaultTransport. A clone needs an idle timeout, because
// nobody closes it.
const maxIdle = 90 * time.Second

// pingTimeout is how long an HTTP/2 connection may be silent before its health is checked. The
// timeout of the check itself is net/http's, 15 s.
const pingTimeout = 15 * time.Second

// NewTransport returns a Transport that shares no connection with base. [Transport.Present] must be
// called before its first use.
func NewTransport(base *http.Transport, log *slog.Logger) *Transport {
	t := &Transport{Transport: clone(base), log: log}
	t.TLSClientConfig = cmp.Or(t.TLSClientConfig, new(tls.Config))
	// A certificate in tls.Config.Certificates is not presented if the server names other CAs.
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		key := t.presented.Load()
		presented := key.cert.Certificate
		presented.PrivateKey = key
		return &presented, nil
	}
	t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0) // base's sessions were made without the certificate
	t.IdleConnTimeout = cmp.Or(t.IdleConnTimeout, maxIdle)
	// Health checks that were set with x/net's http2.ConfigureTransports cannot be read from base.
	t.HTTP2 = cmp.Or(t.HTTP2, new(http.HTTP2Config)) // a copy, because base was cloned
	t.HTTP2.SendPingTimeout = cmp.Or(t.HTTP2.SendPingTimeout, pingTimeout)
	return t
}

// clone returns a clone of t with its own connections. An "h2" entry in TLSNextProto, such as the one
// that http2.ConfigureTransport adds, would share t's connections, so it is dropped and HTTP/2
// re-enabled.
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

// Present makes cert the certificate of all connections from now on. cert must have the same leaf as
// the certificates that were presented before; its key and its chain may differ.
func (t *Transport) Present(cert *Certificate) {
	key := &presentedKey{cert, guard.NewCalls(guard.AtOnce), t.log}
	if before := t.presented.Load(); before != nil && assertion.SameSigner(before.cert.signer, cert.signer) {
		key.calls = before.calls
	}
	t.presented.Store(key)
}

// signTimeout is less than the time limit of an attempt in package grant, so that the error can still
// name the key. The attempt's own context would not help: net/http detaches the handshake from it.
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

// SignMessage makes presentedKey a crypto.MessageSigner, because the certificate's signer may be one.
func (k *presentedKey) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.guarded(func() ([]byte, error) { return crypto.SignMessage(k.cert.signer, rand, message, opts) })
}

func (k *presentedKey) guarded(sign func() ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	signature, err := guard.Call(ctx, k.calls, "mosaic: the private key of Certificate", k.log, sign)
	if err != nil {
		return nil, redact.NewForeign("", err, "") // crypto/tls calls the Error method, and err's may panic
	}
	return signature, nil
}
