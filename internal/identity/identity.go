// Package identity knows as whom token requests are made: it has the credentials to use now, and
// the transport that presents their certificate.
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
// a secret or a key. If there is none of them, the HTTP client presents a certificate itself.
// Credentials are immutable.
type Credentials struct {
	Secret      string
	Key         *assertion.Key    // nil if there is none
	Certificate *mtls.Certificate // nil if there is none
}

// An Identity is Credentials in use. It is immutable.
type Identity struct {
	*Credentials
	Signing   guard.Calls       // bounds the calls of Key's signer
	Via       *mtls.Transport   // presents Certificate; nil without Certificate
	Transport http.RoundTripper // Via, or the caller's own
}

// A Source returns the identity to use now. It is safe for concurrent use.
type Source struct {
	get     func(context.Context) (*Credentials, error) // nil if the credentials are fixed
	getting guard.Calls
	log     *slog.Logger

	plain   http.RoundTripper // the caller's own, or defaultTransport
	base    *http.Transport   // to clone for each certificate
	baseErr error             // why there is no base

	newest atomic.Pointer[Identity] // nil before get has first succeeded

	mu       sync.Mutex // guards the following, and changes of newest
	obtained string     // identifies the credentials of the last token, and holds their secret; empty before it
	warned   time.Time  // when earlier credentials were last logged
}

// New returns a Source of the fixed credentials or, if get is not nil, of what get returns at each
// call. get must check its result. own is the caller's transport; if it is nil, that is
// http.DefaultTransport. It is cloned if a certificate may have to be presented, and New fails if
// fixed has a certificate and own cannot be cloned.
func New(fixed *Credentials, get func(context.Context) (*Credentials, error), own http.RoundTripper, log *slog.Logger) (*Source, error) {
	s := &Source{get: get, getting: guard.NewCalls(guard.AtOnce), log: log, plain: cmp.Or[http.RoundTripper](own, defaultTransport{})}
	if get != nil || fixed.Certificate != nil {
		s.base, s.baseErr = mtls.Base(cmp.Or(own, http.DefaultTransport))
	}
	if get != nil {
		return s, nil
	}
	_, err := s.use(fixed)
	return s, err
}

// A defaultTransport looks up http.DefaultTransport at each request, as x/oauth2 does, because
// programs and test tools replace it.
type defaultTransport struct{}

func (defaultTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return http.DefaultTransport.RoundTrip(req)
}

func (defaultTransport) CloseIdleConnections() { new(http.Client).CloseIdleConnections() }

// getTimeout bounds the wait for get. A vault answers in less, and callers may wait.
const getTimeout = 5 * time.Second

// Current returns the identity for an attempt that ends with ctx. It waits for get for half of
// ctx's time, because the request needs the rest. If get fails, Current returns the newest identity
// so far; if there is none, it fails.
func (s *Source) Current(ctx context.Context) (*Identity, error) {
	if s.get == nil {
		return s.newest.Load(), nil
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
	if id == nil || ctx.Err() != nil {
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

// A valueless context hides the values of another, which belong to one of many callers.
type valueless struct{ context.Context }

func (valueless) Value(any) any { return nil }

// use makes creds the newest identity. If their certificate is that of the identity before, its
// transport is kept; otherwise the idle connections of that transport are closed.
func (s *Source) use(creds *Credentials) (*Identity, error) {
	if creds.Certificate != nil && s.base == nil {
		way := "set TLSClientAuth instead, and let the HTTP client present it"
		if creds.Secret != "" || creds.Key != nil {
			way = "drop Certificate, and let the HTTP client present it"
		}
		return nil, fmt.Errorf("cannot present Certificate without %w: %s", s.baseErr, way)
	}
	s.mu.Lock()
	before := cmp.Or(s.newest.Load(), &Identity{Credentials: new(Credentials)})
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

// Plain returns the caller's own transport.
func (s *Source) Plain() http.RoundTripper { return s.plain }

// Transport returns the transport of the newest identity, or the caller's own before there is an
// identity.
func (s *Source) Transport() http.RoundTripper {
	if id := s.newest.Load(); id != nil {
		return id.Transport
	}
	return s.plain
}

// CloseIdleConnections closes the idle connections of the newest certificate's transport.
func (s *Source) CloseIdleConnections() {
	if id := s.newest.Load(); id != nil && id.Via != nil {
		id.Via.CloseIdleConnections()
	}
}

// Obtained notes that a token was obtained with id. If the credentials of the token before it were
// others, that is logged, because an operator waits for it before revoking those.
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

// JWKs returns the public keys of c. That of the certificate has the certificate's chain.
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
