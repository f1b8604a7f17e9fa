// Package grant makes token requests with the client credentials grant (RFC 6749 §4.4). Only this
// package speaks to the token endpoint.
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
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/expiry"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
	"example.com/mosaic/internal/refresh"
)

const (
	attemptTimeout = 10 * time.Second       // the token endpoint answers in well under one
	requestTimeout = 30 * time.Second       // of all attempts: a caller may wait for it
	firstBackoff   = 500 * time.Millisecond // doubled for each further attempt
)

// A Client makes the token requests of one source or client. After Init its fields are not
// modified, and it is safe for concurrent use.
type Client struct {
	ClientID string
	TokenURL string // for a secret or a key
	MTLSURL  string // for a certificate alone
	Audience string // of assertions; empty: the URL posted to
	Scopes   []string
	Params   url.Values
	Services map[string]string // resources by path segment, for hints; nil: the Config names one

	// Fixed authenticates every attempt, unless there is Get. Get is called before each attempt and
	// checks its own result.
	Fixed *Credentials
	Get   func(context.Context) (*Credentials, error)

	HTTP *http.Client // with a Transport; its Jar and CheckRedirect are not used
	Log  *slog.Logger

	pool    *mtls.Pool // over HTTP's Transport; nil: it cannot present a certificate
	poolErr error
	getting *guard.Calls // of Get
	asking  *guard.Calls // of ask, one at a time; guards failed
	failed  time.Time    // when ask last failed
	latest  atomic.Pointer[prepared]
	skew    atomic.Int64 // of the server's clock over the local one, a time.Duration

	mu       sync.Mutex // guards the following, and changes of latest
	obtained string     // the identity of the last token's credentials, a secret; empty: none yet, or TLSClientAuth
	warned   time.Time  // when earlier credentials were last logged
}

// Init prepares c. It fails if a Fixed certificate cannot be presented.
func (c *Client) Init() error {
	c.getting, c.asking = guard.NewCalls(guard.AtOnce), guard.NewCalls(1)
	if c.Get != nil || c.Fixed.Certificate != nil {
		c.pool, c.poolErr = mtls.NewPool(c.HTTP.Transport, c.Log)
	}
	if c.Get != nil {
		return nil
	}
	_, err := c.prepare(c.Fixed)
	return err
}

// Token requests one token for resource, in at most attempts attempts. The error is an [*Error].
func (c *Client) Token(caller context.Context, resource string, attempts int) (*refresh.Token, error) {
	ctx, cancel := context.WithTimeout(caller, c.timeout(requestTimeout))
	defer cancel()
	for n, redated := 1, false; ; n++ {
		tok, failure := c.attempt(ctx, resource)
		if failure == nil {
			return tok, nil
		}
		failure.attempts = n
		if err := ended(caller); err != nil {
			return nil, failure.endedBy(err)
		}
		if failure.redated && !redated {
			redated = true
			n-- // another assertion is no further attempt
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
			return nil, failure.endedBy(caller.Err())
		}
	}
}

// timeout returns the lesser of d and the HTTP client's own Timeout.
func (c *Client) timeout(d time.Duration) time.Duration {
	if own := c.HTTP.Timeout; own > 0 {
		return min(d, own)
	}
	return d
}

// ended returns ctx.Err(), or DeadlineExceeded from the deadline on: a dial can time out just
// before its context does.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) && ctx.Err() == nil {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// An attempt is one request with prepared credentials.
type attempt struct {
	*Client
	*prepared
	resource       string
	url            string
	exchange       exchange
	sent, received time.Time
}

func (c *Client) attempt(ctx context.Context, resource string) (tok *refresh.Token, failure *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout(attemptTimeout))
	defer cancel()
	a := &attempt{Client: c, resource: resource, url: c.TokenURL}
	if a.prepared, failure = c.credentials(ctx); failure == nil {
		if a.Secret == "" && a.Key == nil {
			a.url = c.MTLSURL
		}
		tok, failure = a.run(ctx)
	}
	if failure != nil {
		failure.url, failure.clientID = a.url, c.ClientID
		return nil, failure
	}
	c.noteObtained(a.prepared)
	return tok, nil
}

// run makes the request through x/oauth2.
func (a *attempt) run(ctx context.Context) (*refresh.Token, *Error) {
	cc := clientcredentials.Config{
		ClientID:       a.ClientID,
		ClientSecret:   a.Secret,
		TokenURL:       a.url,
		Scopes:         a.Scopes,
		EndpointParams: make(url.Values),
		AuthStyle:      oauth2.AuthStyleInParams,
	}
	maps.Copy(cc.EndpointParams, a.Params)
	if a.resource != "" {
		cc.EndpointParams.Set("resource", a.resource)
	}
	skew := time.Duration(a.skew.Load())
	if a.Key != nil {
		signed, err := guard.Call(ctx, a.signing, "mosaic: PrivateKey", a.Log, func() (string, error) {
			return a.Key.Sign(a.ClientID, cmp.Or(a.Audience, a.url), time.Now().Add(skew))
		})
		if err != nil {
			failure := ownError("no client assertion: ", err, a.Secret)
			failure.transient = failure.timeout // a signer that fails would fail again
			return nil, failure
		}
		cc.EndpointParams.Set("client_assertion_type", assertion.Type)
		cc.EndpointParams.Set("client_assertion", signed)
	}

	a.exchange.base = a.transport
	client := &http.Client{
		Transport:     &a.exchange,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a.sent = time.Now()
	t, err := cc.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	a.received = time.Now()
	if err != nil {
		failure := a.explain(ctx, err)
		if failure.retryAfter = a.exchange.retryAfter(); failure.retryAfter > 0 {
			failure.what += "; retry after " + failure.retryAfter.String()
		}
		a.explainClock(failure, skew)
		return nil, failure
	}
	tok, err := a.accept(t)
	if err != nil {
		head, _ := a.exchange.head(a.Secret)
		return nil, &Error{what: "the reply (" + head + ") holds no usable token: " + err.Error(), refused: true}
	}
	return tok, nil
}

// maxToken bounds an access token: many servers refuse a header of more than 8 or 16 KiB, and
// Mosaic's tokens have about one.
const maxToken = 16 << 10

// b64token is the syntax of an access token (RFC 6750 §2.1).
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// accept returns the token of a reply, or says why it cannot be used.
func (a *attempt) accept(t *oauth2.Token) (*refresh.Token, error) {
	switch {
	case t.TokenType != "" && !strings.EqualFold(t.TokenType, "Bearer"):
		return nil, fmt.Errorf("its token_type is %q, not Bearer", redact.Peer(t.TokenType, a.Secret, 20))
	case len(t.AccessToken) > maxToken:
		return nil, fmt.Errorf("it has %d bytes, more than any header takes", len(t.AccessToken))
	case !b64token.MatchString(t.AccessToken):
		return nil, errors.New("it holds characters that no Bearer token may have (RFC 6750 §2.1)")
	}
	end, life, err := expiry.Of(expiry.Reply{
		AccessToken: t.AccessToken,
		ExpiresIn:   t.Expiry.Sub(a.received).Round(time.Second), // x/oauth2 counts from the reply; far below zero: none
		Sent:        a.sent,
		Received:    a.received,
		Date:        a.exchange.date(),
	})
	if err != nil {
		return nil, err
	}
	tok := &refresh.Token{Token: *t, Authorization: "Bearer " + t.AccessToken, Sent: a.sent, Lifetime: life}
	tok.Expiry = end
	if a.Certificate != nil {
		tok.Via = a.via
		err = a.bind(tok)
	}
	return tok, err
}

// bind lets tok end no later than our certificate. It fails if tok is bound to another.
func (a *attempt) bind(tok *refresh.Token) error {
	claims := jwt.MapClaims{} // their types are for Mosaic to judge
	_, _, _ = jwt.NewParser().ParseUnverified(tok.AccessToken, claims)
	confirmation, _ := claims["cnf"].(map[string]any)
	if thumbprint, _ := confirmation["x5t#S256"].(string); thumbprint != "" && thumbprint != a.Certificate.Thumbprint {
		return errors.New("it is bound to a different certificate: is a proxy terminating TLS?")
	}
	if err := a.Certificate.Valid(); err != nil {
		return err
	}
	if end := a.Certificate.Leaf.NotAfter; end.Before(tok.Expiry) {
		left := end.Sub(a.received)
		tok.Expiry, tok.Lifetime = end, min(tok.Lifetime, left)
		if left < time.Second {
			return fmt.Errorf("it would end with Certificate, at %s", end.UTC().Format(time.RFC3339))
		}
	}
	return nil
}
