// Package grant makes token requests with the client credentials grant (RFC 6749 §4.4). Only this
// package talks to the token endpoint.
package grant

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/expiry"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/identity"
	"example.com/mosaic/internal/reconnect"
	"example.com/mosaic/internal/redact"
	"example.com/mosaic/internal/refresh"
)

const (
	attemptTimeout = 10 * time.Second       // the token endpoint answers in well under a second
	requestTimeout = 30 * time.Second       // for all attempts together, because a caller may be waiting
	firstBackoff   = 500 * time.Millisecond // doubled for each further attempt
)

// A Client makes the token requests for one TokenSource or HTTP client. Its exported fields must not
// be modified after its first use. It is safe for concurrent use.
type Client struct {
	Config   clientcredentials.Config // without a ClientSecret, because the identity supplies it
	MTLSURL  string                   // the TokenURL to use if a certificate alone authenticates the client
	Audience string                   // the aud of assertions; if empty, the token URL in use
	Identity *identity.Source
	Timeout  time.Duration // the HTTP client's Timeout; zero if it has none
	Log      *slog.Logger

	sender reconnect.Sender
	skew   atomic.Int64 // how far the server's clock is ahead, a time.Duration; zero if the clocks agree
}

// Token requests one token for resource, in at most the given number of attempts. The error is an
// [*Error].
func (c *Client) Token(caller context.Context, resource string, attempts int) (*refresh.Token, error) {
	ctx, cancel := c.within(caller, requestTimeout)
	defer cancel()
	for n, redated := 1, false; ; n++ {
		tok, failure := c.attempt(ctx, resource)
		if failure == nil {
			return tok, nil
		}
		failure.attempts = n
		if failure.ended = ended(caller); failure.ended != nil {
			if failure.hint == hintFault { // the caller's time was up, which is nobody else's fault
				failure.hint = ""
			}
			return nil, failure
		}
		if failure.redated && !redated {
			redated = true
			n-- // an attempt with a corrected date does not count
			continue
		}
		if !failure.transient || n >= attempts {
			return nil, failure
		}
		backoff := firstBackoff << (n - 1)
		backoff = max(backoff/2+rand.N(backoff/2), failure.retryAfter)
		if deadline, _ := ctx.Deadline(); time.Until(deadline) <= backoff {
			return nil, failure
		}
		select {
		case <-time.After(backoff):
		case <-caller.Done():
			failure.ended = caller.Err()
			return nil, failure
		}
	}
}

// within returns a context that ends after d. If the HTTP client's Timeout is shorter, the context
// ends after that, and its cause is an ownTimeout.
func (c *Client) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if c.Timeout > 0 && c.Timeout < d {
		return context.WithTimeoutCause(ctx, c.Timeout, ownTimeout(c.Timeout))
	}
	return context.WithTimeout(ctx, d)
}

// An ownTimeout is the Timeout of the HTTP client.
type ownTimeout time.Duration

func (t ownTimeout) Error() string {
	return "the Timeout of the HTTP client is " + time.Duration(t).String()
}

// ended returns ctx.Err() or, once ctx's deadline has passed, DeadlineExceeded even if ctx has not
// noticed yet: a dial can time out just before its context does.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) && ctx.Err() == nil {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// An attempt is one request with one identity.
type attempt struct {
	client         *Client
	id             *identity.Identity // nil until it is known
	resource       string
	url            string        // to post to
	skew           time.Duration // the correction of the assertion's date
	exchange       exchange
	progress       progress
	sent, received time.Time
}

func (c *Client) attempt(ctx context.Context, resource string) (*refresh.Token, *Error) {
	ctx, cancel := c.within(ctx, attemptTimeout)
	defer cancel()
	a := &attempt{client: c, resource: resource, url: c.Config.TokenURL, skew: time.Duration(c.skew.Load())}
	tok, failure := a.run(ctx)
	if failure != nil {
		failure.url, failure.clientID = a.url, c.Config.ClientID
		return nil, failure
	}
	c.Identity.Obtained(a.id)
	return tok, nil
}

// run makes the request through x/oauth2.
func (a *attempt) run(ctx context.Context) (*refresh.Token, *Error) {
	c := a.client
	id, err := c.Identity.Current(ctx)
	if err != nil {
		return nil, ownError(err)
	}
	if a.id = id; id.Secret == "" && id.Key == nil {
		a.url = c.MTLSURL
	}
	cc := c.Config // a copy
	cc.TokenURL, cc.ClientSecret, cc.EndpointParams = a.url, id.Secret, make(url.Values)
	maps.Copy(cc.EndpointParams, c.Config.EndpointParams)
	if a.resource != "" {
		cc.EndpointParams.Set("resource", a.resource)
	}
	if id.Key != nil {
		signed, err := guard.Call(ctx, id.Signing, "mosaic: PrivateKey", c.Log, func() (string, error) {
			return id.Key.Sign(cc.ClientID, cmp.Or(c.Audience, a.url), time.Now().Add(a.skew))
		})
		if err != nil {
			return nil, ownError(redact.NewForeign("no client assertion: ", err, ""))
		}
		cc.EndpointParams.Set("client_assertion_type", assertion.Type)
		cc.EndpointParams.Set("client_assertion", signed)
	}

	a.exchange.send = func(req *http.Request) (*http.Response, error) {
		traced := httptrace.WithClientTrace(req.Context(), a.progress.trace(req.URL.Host))
		return c.sender.Send(id.Transport, req.WithContext(traced))
	}
	client := &http.Client{
		Transport:     &a.exchange,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a.sent = time.Now()
	t, err := cc.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	a.received = time.Now()
	if err != nil {
		return nil, a.explain(ctx, err)
	}
	tok, err := a.accept(t)
	if err != nil {
		head, _ := a.exchange.head(id.Secret)
		return nil, &Error{what: "the reply (" + head + ") holds no usable token: " + err.Error(), refused: true}
	}
	return tok, nil
}

// maxToken bounds the size of an access token. Many servers refuse a header of more than 8 or
// 16 KiB, and Mosaic's tokens are about 1 KiB.
const maxToken = 16 << 10

// b64token is the syntax of an access token (RFC 6750 §2.1).
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// accept returns the token of a reply, or says why it cannot be used.
func (a *attempt) accept(t *oauth2.Token) (*refresh.Token, error) {
	switch {
	case t.TokenType != "" && !strings.EqualFold(t.TokenType, "Bearer"):
		return nil, fmt.Errorf("its token_type is %q, not Bearer", redact.Peer(t.TokenType, a.id.Secret, 20))
	case len(t.AccessToken) > maxToken:
		return nil, fmt.Errorf("it has %d bytes, more than any header takes", len(t.AccessToken))
	case !b64token.MatchString(t.AccessToken):
		return nil, errors.New("it holds characters that no Bearer token may have (RFC 6750 §2.1)")
	}
	end, life, err := expiry.Of(expiry.Reply{
		AccessToken: t.AccessToken,
		ExpiresIn:   t.Expiry.Sub(a.received).Round(time.Second), // negative without an expires_in, as Expiry is then zero
		Sent:        a.sent,
		Received:    a.received,
		Date:        a.exchange.date(),
	})
	if err != nil {
		return nil, err
	}
	tok := &refresh.Token{Token: *t, Authorization: "Bearer " + t.AccessToken, Sent: a.sent, Lifetime: life}
	tok.Expiry = end
	if a.id.Certificate != nil {
		tok.Via = a.id.Via
		err = a.bind(tok)
	}
	return tok, err
}

// bind makes tok expire no later than our certificate. It fails if tok is bound to a different one.
func (a *attempt) bind(tok *refresh.Token) error {
	claims := jwt.MapClaims{} // a map, because claims other than cnf may have any type
	_, _, _ = jwt.NewParser().ParseUnverified(tok.AccessToken, claims)
	confirmation, _ := claims["cnf"].(map[string]any)
	if thumbprint, _ := confirmation["x5t#S256"].(string); thumbprint != "" && thumbprint != a.id.Certificate.Thumbprint {
		return errors.New("it is bound to a different certificate: is a proxy terminating TLS?")
	}
	if err := a.id.Certificate.Valid(); err != nil {
		return err
	}
	if end := a.id.Certificate.Leaf.NotAfter; end.Before(tok.Expiry) {
		left := end.Sub(a.received)
		tok.Expiry, tok.Lifetime = end, min(tok.Lifetime, left)
		if left < time.Second {
			return fmt.Errorf("it would end with Certificate, at %s", end.UTC().Format(time.RFC3339))
		}
	}
	return nil
}
