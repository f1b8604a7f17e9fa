package grant

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
)

// Credentials authenticate a client: a secret, a key, a certificate, or a certificate beside one of
// the others. Without any, the HTTP client presents a certificate itself. They are immutable.
type Credentials struct {
	Secret      string
	Key         *assertion.Key    // nil: none
	Certificate *mtls.Certificate // nil: none
}

// prepared are Credentials ready for use.
type prepared struct {
	*Credentials
	signing   *guard.Calls      // of Key's signer; the same signer keeps it
	via       *mtls.Transport   // presents Certificate; nil without one
	transport http.RoundTripper // via, or the caller's own transport
}

// getTimeout bounds a call of Get: a vault answers in less, and callers may wait.
const getTimeout = 5 * time.Second

// credentials asks Get, within half of ctx's time. If Get fails it returns the latest.
func (c *Client) credentials(ctx context.Context) (*prepared, *Error) {
	if c.Get == nil {
		return c.latest.Load(), nil
	}
	deadline, _ := ctx.Deadline()
	own, end := context.WithDeadline(context.Background(), deadline) // without ctx's values
	context.AfterFunc(ctx, end)
	wait, cancel := patient(ctx)
	defer cancel()
	creds, err := guard.Call(wait, c.getting, "mosaic: GetCredentials", c.Log, func() (*Credentials, error) { return c.Get(own) })
	if err == nil {
		p, unpresentable := c.prepare(creds)
		if unpresentable == nil {
			return p, nil
		}
		err = fmt.Errorf("GetCredentials: %w", unpresentable)
	}
	latest := c.latest.Load()
	if latest == nil || ended(ctx) != nil {
		return nil, ownError("no credentials: ", err, "")
	}
	foreign := redact.NewForeign("", err, latest.Secret)
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.warned) >= time.Minute {
		c.warned = time.Now()
		c.Log.Warn("mosaic: using earlier credentials", "error", foreign)
	}
	return latest, nil
}

// patient bounds ctx for a call of Get: the request needs half of ctx's time.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	bound := getTimeout
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(deadline)/2)
	}
	return context.WithTimeout(ctx, bound)
}

// prepare makes creds the latest and closes the idle connections of the certificate before.
func (c *Client) prepare(creds *Credentials) (*prepared, error) {
	p := &prepared{Credentials: creds, transport: c.HTTP.Transport}
	if creds.Certificate != nil {
		if c.poolErr != nil {
			way := "set TLSClientAuth instead, and let the HTTP client present it"
			if creds.Secret != "" || creds.Key != nil {
				way = "drop Certificate, and let the HTTP client present it"
			}
			return nil, fmt.Errorf("cannot present Certificate without %w: %s", c.poolErr, way)
		}
		p.via = c.pool.Transport(creds.Certificate)
		p.transport = p.via
	}
	c.mu.Lock()
	before := c.latest.Load()
	if creds.Key != nil {
		p.signing = guard.NewCalls(guard.AtOnce)
		if before != nil && before.Key != nil && assertion.SameSigner(before.Key.Signer, creds.Key.Signer) {
			p.signing = before.signing
		}
	}
	c.latest.Store(p)
	c.mu.Unlock()
	if before != nil && before.via != nil && before.via != p.via {
		before.via.CloseIdleConnections()
	}
	return p, nil
}

// noteObtained logs a change of credentials since the last token.
func (c *Client) noteObtained(p *prepared) {
	attrs, id := []any{"method", "tls_client_auth"}, p.Secret
	switch {
	case p.Secret != "":
		attrs[1] = "client_secret_post"
	case p.Key != nil:
		attrs, id = []any{"method", "private_key_jwt", "kid", p.Key.JWK.KeyID}, p.Key.JWK.KeyID+" "+p.Key.JWK.Thumbprint()
	}
	if p.Certificate != nil {
		attrs, id = append(attrs, "x5t", p.Certificate.Thumbprint), id+" "+p.Certificate.Thumbprint
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.obtained != "" && c.obtained != id {
		c.Log.Info("mosaic: credentials changed", attrs...)
	}
	c.obtained = id
}

// RoundTripper returns the transport for requests with an Authorization of their own. It presents
// the newest certificate, if any. Get is called if it never succeeded or the certificate has
// expired; after a failure, once a minute.
func (c *Client) RoundTripper(ctx context.Context) http.RoundTripper {
	if c.wanting() {
		ctx, cancel := patient(ctx)
		defer cancel()
		_, _ = guard.Call(ctx, c.asking, "mosaic: GetCredentials", c.Log, c.ask)
	}
	if p := c.latest.Load(); p != nil {
		return p.transport
	}
	return c.HTTP.Transport
}

// ask calls Get once for all requests that wait, and goes on if the first of them ends. They use
// c.latest; its results are for guard.Call only.
func (c *Client) ask() (p *prepared, err error) {
	if !c.wanting() || time.Since(c.failed) < time.Minute {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	defer func() { // also after a panic
		if c.wanting() {
			c.failed = time.Now()
		}
	}()
	p, _ = c.credentials(ctx)
	return p, nil
}

// wanting reports whether there are no credentials yet, or the certificate is not valid.
func (c *Client) wanting() bool {
	p := c.latest.Load()
	return p == nil || c.Get != nil && p.Certificate != nil && p.Certificate.Valid() != nil
}

// CloseIdleConnections closes those of every certificate in use.
func (c *Client) CloseIdleConnections() {
	if c.pool != nil {
		c.pool.CloseIdleConnections()
	}
}

// JWKs returns the public keys, the certificate's with its chain.
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
