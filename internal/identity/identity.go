// Package identity holds the credentials with which token requests are currently made, and the
// transport that presents their certificate.
package identity

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
)

// Credentials authenticate a client: a secret, a key, a certificate, or a certificate together with
// a secret or a key. If none is set, the HTTP client presents a certificate itself. Credentials are
// immutable.
type Credentials struct {
	Secret      string
	Key         *assertion.Key    // nil if there is none
	Certificate *mtls.Certificate // nil if there is none
}

// An Identity is Credentials in use. It is immutable.
type Identity struct {
	*Credentials
	Signing   guard.Calls       // limits concurrent calls to Key's signer
	Via       *mtls.Transport   // presents Certificate; nil without Certificate
	Transport http.RoundTripper // Via, or the caller's transport, which may be nil
}

// A Source returns the identity to use now. It is safe for concurrent use.
type Source struct {
	fixed   *Identity // nil if get supplies the credentials
	get     func(context.Context) (*Credentials, error)
	getting guard.Calls
	log     *slog.Logger

	plain   http.RoundTripper // the caller's transport, which may be nil
	base    *http.Transport   // to clone for each certificate
	baseErr error             // why plain cannot be cloned

	newest atomic.Pointer[Identity] // its Credentials are zero until get succeeds for the first time

	mu       sync.Mutex // guards the fields below and changes to newest
	obtained string     // identifies the credentials of the last token, and contains their secret; empty before the first token
	warned   time.Time  // when the use of earlier credentials was last logged
}

// New returns a Source of the fixed credentials. If fixed is nil, the Source calls get each time; get
// must check the credentials that it returns. own is the caller's transport, or nil for
// http.DefaultTransport. It is cloned if a certificate may have to be presented. If fixed has a
// certificate and own cannot be cloned, New fails.
func New(fixed *Credentials, get func(context.Context) (*Credentials, error), own http.RoundTripper, log *slog.Logger) (s *Source, err error) {
	s = &Source{get: get, getting: guard.NewCalls(guard.AtOnce), log: log, plain: own}
	s.newest.Store(&Identity{Credentials: new(Credentials), Transport: s.plain})
	if fixed == nil || fixed.Certificate != nil {
		s.base, s.baseErr = mtls.Base(cmp.Or(own, http.DefaultTransport))
	}
	if fixed != nil {
		s.fixed, err = s.use(fixed)
	}
	return s, err
}

// getTimeout bounds the wait for get. A vault answers sooner, and callers may be waiting.
const getTimeout = 5 * time.Second

// Current returns the identity for an attempt that ends with ctx. It gives get at most half of ctx's
// remaining time, because the token request needs the rest. If get fails, Current returns the newest
// identity so far; if there is none, it fails.
func (s *Source) Current(ctx context.Context) (*Identity, error) {
	if s.fixed != nil {
		return s.fixed, nil
	}
	wait := getTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	creds, err := guard.Call(waiting, s.getting, "mosaic: GetCredentials", s.log, func() (*Credentials, error) { return s.get(valueless{ctx}) })
	if err == nil {
		id, unusable := s.use(creds)
		if unusable == nil {
			return id, nil
		}
		err = fmt.Errorf("GetCredentials: %w", unusable)
	}
	id := s.newest.Load()
	if *id.Credentials == (Credentials{}) || ctx.Err() != nil {
		return nil, redact.NewForeign("no credentials: ", err, "")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.warned) >= time.Minute {
		s.warned = time.Now()
		s.log.Warn("mosaic: using earlier credentials", "error", redact.NewForeign("", err, id.Secret))
	}
	return id, nil
}

// A valueless context hides the values of another context, which belong to one of many callers.
type valueless struct{ context.Context }

func (valueless) Value(any) any { return nil }

// use makes an identity from creds and stores it as the newest. If the certificate is the same, the
// previous identity's transport is kept. Otherwise the idle connections of that transport are closed.
func (s *Source) use(creds *Credentials) (*Identity, error) {
	if creds.Certificate != nil && s.base == nil {
		way := "set TLSClientAuth instead, and let the HTTP client present it"
		if creds.Secret != "" || creds.Key != nil {
			way = "drop Certificate, and let the HTTP client present it"
		}
		return nil, fmt.Errorf("cannot present Certificate without %w: %s", s.baseErr, way)
	}
	s.mu.Lock()
	before := s.newest.Load()
	id := &Identity{Credentials: creds, Transport: s.plain}
	if creds.Key != nil {
		id.Signing = guard.NewCalls(guard.AtOnce)
		if before.Key != nil && assertion.SameSigner(before.Key.Signer, creds.Key.Signer) {
			id.Signing = before.Signing
		}
	}
	if creds.Certificate != nil {
		if id.Via = before.Via; id.Via == nil || !before.Certificate.Leaf.Equal(creds.Certificate.Leaf) {
			id.Via = mtls.NewTransport(s.base, s.log)
		}
		id.Via.Present(creds.Certificate)
		id.Transport = id.Via
	}
	s.newest.Store(id)
	s.mu.Unlock()
	if before.Via != nil && before.Via != id.Via {
		before.Via.CloseIdleConnections()
	}
	return id, nil
}

// Transport returns the transport of the newest identity, or the caller's own before there is an
// identity.
func (s *Source) Transport() http.RoundTripper { return s.newest.Load().Transport }

// CloseIdleConnections closes the idle connections of the newest certificate's transport.
func (s *Source) CloseIdleConnections() {
	if via := s.newest.Load().Via; via != nil {
		via.CloseIdleConnections()
	}
}

// Obtained notes that a token was obtained with id. It logs if the credentials have changed since the
// last token, because an operator waits for this record before revoking the old credentials.
func (s *Source) Obtained(id *Identity) {
	attrs, unlogged := []any{"method", "tls_client_auth"}, id.Secret
	switch {
	case id.Secret != "":
		attrs[1] = "client_secret_post"
	case id.Key != nil:
		attrs, unlogged = []any{"method", "private_key_jwt", "kid", id.Key.JWK.KeyID}, id.Key.JWK.Thumbprint()
	}
	if id.Certificate != nil {
		attrs = append(attrs, "x5t", id.Certificate.Thumbprint)
	}
	creds := fmt.Sprint(attrs, unlogged)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.obtained != "" && s.obtained != creds {
		s.log.Info("mosaic: credentials changed", attrs...)
	}
	s.obtained = creds
}

// JWKs returns the public keys of c. The certificate's key comes with the certificate's chain.
func (c *Credentials) JWKs() (keys []assertion.JWK) {
	if c.Key != nil {
		keys = append(keys, c.Key.JWK)
	}
	if c.Certificate != nil {
		public, chain := c.Certificate.Leaf.PublicKey, c.Certificate.Certificate.Certificate
		if c.Key != nil && assertion.SameKey(c.Key.Public, public) {
			keys[0].X5C = chain
			return keys
		}
		keys = append(keys, assertion.CertificateJWK(public, chain))
	}
	return keys
}
