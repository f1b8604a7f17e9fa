// Package grant makes token requests: one client_credentials grant (RFC 6749
// §4.4) at a time, with its attempts, its reply and its errors.
package grant

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"example.com/mosaic/internal/assertion"
	"example.com/mosaic/internal/expiry"
	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
	"example.com/mosaic/internal/refresh"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	attemptTimeout = 10 * time.Second       // the token endpoint answers in well under one
	requestTimeout = 30 * time.Second       // all attempts: what a caller may have to wait
	firstBackoff   = 500 * time.Millisecond // doubled for each further attempt

	// maxToken bounds an access token: servers commonly refuse a header of more
	// than 8 or 16 KiB, and Mosaic's tokens have about one.
	maxToken = 16 << 10

	// maxSkew is how far the server's clock may seem from the local one before an
	// assertion that was refused is dated by it. A server that takes none older
	// than 15 s refuses one that was dated back by ten where the clocks differ by
	// four: Date and iat are rounded down to the second.
	maxSkew = 3 * time.Second
)

// A Client makes the token requests of one client. It is safe for concurrent use.
type Client struct {
	ClientID     string
	ClientSecret string
	Key          *assertion.Key
	Certificate  *tls.Certificate
	TokenURL     string
	Audience     string // of assertions; empty: TokenURL
	Scopes       []string
	Params       url.Values
	HTTP         *http.Client // a copy of the caller's
	Log          *slog.Logger

	bound *http.Transport // HTTP's transport's clone that presents Certificate; nil without one
	leaf  string          // the x5t#S256 of Certificate
	ahead atomic.Int64    // how far the server's clock is ahead of the local one, a time.Duration

	keyCalls  *guard.Calls                // of Key's signer
	certCalls *guard.Calls                // of Certificate's key
	handshake atomic.Pointer[signerError] // what crypto/tls last got of Certificate's key, and makes text of
}

// Bind prepares c. It clones HTTP's transport where there is a Certificate to
// present.
func (c *Client) Bind() error {
	c.keyCalls, c.certCalls = guard.NewCalls(), guard.NewCalls()
	if c.HTTP.Transport == nil {
		c.HTTP.Transport = http.DefaultTransport
	}
	if c.Certificate != nil {
		bound, err := mtls.Bind(c.HTTP.Transport, c.Certificate, c.signHandshake)
		if err != nil {
			return err
		}
		c.leaf = mtls.Thumbprint(c.Certificate.Certificate[0])
		c.bound, c.HTTP.Transport = bound, bound
	}
	return nil
}

// Bound returns the transport that presents Certificate, or nil.
func (c *Client) Bound() *http.Transport { return c.bound }

// Token obtains one token for resource, in up to so many attempts. Its error is
// an [*Error].
func (c *Client) Token(caller context.Context, resource string, attempts int) (*refresh.Token, error) {
	ctx, cancel := context.WithTimeout(caller, requestTimeout)
	defer cancel()
	again := false
	for n := 1; ; n++ {
		tok, failure := c.attempt(ctx, resource)
		if failure == nil {
			return tok, nil
		}
		failure.url, failure.attempts = c.TokenURL, n
		if err := ended(caller); err != nil {
			return nil, failure.endedBy(err)
		}
		if failure.redated && !again {
			again = true
			n-- // with another date it is another assertion, not another try
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

// ended returns the error of a context that has ended. The network's own timers
// are set by its deadline, and may run out a moment before it is noticed.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) && ctx.Err() == nil {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// attempt makes one request through x/oauth2.
func (c *Client) attempt(ctx context.Context, resource string) (*refresh.Token, *Error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	cc := clientcredentials.Config{
		ClientID:       c.ClientID,
		ClientSecret:   c.ClientSecret,
		TokenURL:       c.TokenURL,
		Scopes:         c.Scopes,
		EndpointParams: maps.Clone(c.Params),
		AuthStyle:      oauth2.AuthStyleInParams,
	}
	if resource != "" {
		cc.EndpointParams.Set("resource", resource)
	}
	ahead := time.Duration(c.ahead.Load())
	if c.Key != nil {
		signed, failure := c.sign(ctx, ahead)
		if failure != nil {
			return nil, failure
		}
		cc.EndpointParams.Set("client_assertion_type", assertion.Type)
		cc.EndpointParams.Set("client_assertion", signed)
	}

	x := &exchange{base: c.HTTP.Transport}
	client := *c.HTTP
	client.Transport = x
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	sent := time.Now()
	t, err := cc.Token(context.WithValue(ctx, oauth2.HTTPClient, &client))
	received := time.Now()
	if err != nil {
		failure := c.explain(ctx, x, err)
		if failure.retryAfter = x.retryAfter(); failure.retryAfter > 0 {
			failure.what += "; retry after " + failure.retryAfter.String()
		}
		if c.Key != nil {
			c.redate(failure, x, ahead, sent, received)
		}
		return nil, failure
	}
	tok, err := c.accept(t, sent, received, x.date())
	if err != nil {
		return nil, &Error{what: "the reply holds no usable token: " + err.Error(), refused: true}
	}
	return tok, nil
}

// redate looks at the refusal of an assertion that was dated by a clock so far
// ahead of the local one. Where the reply's Date shows that the server's is
// another, the next assertion is dated by that.
func (c *Client) redate(failure *Error, x *exchange, assumed time.Duration, sent, received time.Time) {
	date := x.date()
	if date.IsZero() || x.response.StatusCode != http.StatusBadRequest && x.response.StatusCode != http.StatusUnauthorized {
		return
	}
	ahead := date.Sub(received)
	if assumed >= ahead-maxSkew && assumed <= date.Sub(sent)+maxSkew {
		c.ahead.Store(0) // it was not the date; or the Date is wrong, a proxy's
		return
	}
	c.ahead.Store(int64(ahead))
	failure.redated = true
	failure.what += fmt.Sprintf("; the local clock differs from the server's by %s", ahead.Abs().Round(time.Second))
}

// sign returns a new client assertion, dated so far ahead of the local clock.
func (c *Client) sign(ctx context.Context, ahead time.Duration) (string, *Error) {
	audience := cmp.Or(c.Audience, c.TokenURL)
	signed, err := guard.Call(ctx, c.keyCalls, "mosaic: PrivateKey", c.Log, func() (string, error) {
		return c.Key.Sign(assertion.Claims{ClientID: c.ClientID, Audience: audience, Now: time.Now().Add(ahead)})
	})
	if err == nil {
		return signed, nil
	}
	return "", &Error{what: "no client assertion: " + c.own(err), cause: signerError{err}, transient: errors.Is(err, guard.ErrLate)}
}

// own returns the text of an error of the caller's own side.
func (c *Client) own(err error) string {
	text := strings.TrimPrefix(fmt.Sprint(err), "mosaic: ") // not err.Error(), which may panic
	return redact.Own(text, c.ClientSecret, maxText)
}

// signHandshake returns what sign does, which calls the key of Certificate. It
// has less time than an attempt, so that there is some left to say what failed:
// net/http ends a handshake by a context of its own. crypto/tls makes text of an
// error in a goroutine where an Error method must not panic.
func (c *Client) signHandshake(sign func() ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout-time.Second)
	defer cancel()
	signature, err := guard.Call(ctx, c.certCalls, "mosaic: the private key of Certificate", c.Log, sign)
	if err != nil {
		c.handshake.Store(&signerError{err})
		return nil, errors.New(fmt.Sprint(err))
	}
	return signature, nil
}

// A signerError is a signer's error, in which errors.Is finds everything but the
// end of a context: that would pass for the caller's.
type signerError struct{ error }

func (e signerError) As(target any) bool { return errors.As(e.error, target) }
func (e signerError) Is(target error) bool {
	return target != context.Canceled && target != context.DeadlineExceeded && errors.Is(e.error, target)
}

// accept returns the token of a reply, if it can be used.
func (c *Client) accept(t *oauth2.Token, sent, received, date time.Time) (*refresh.Token, error) {
	switch {
	case t.TokenType != "" && !strings.EqualFold(t.TokenType, "Bearer"):
		if tokenType.MatchString(t.TokenType) {
			return nil, fmt.Errorf("its token_type is %q, not Bearer", t.TokenType)
		}
		return nil, errors.New("its token_type is not Bearer")
	case len(t.AccessToken) > maxToken:
		return nil, fmt.Errorf("it has %d bytes, more than any header takes", len(t.AccessToken))
	case !isB64Token(t.AccessToken):
		return nil, errors.New("it holds characters that no Bearer token may have (RFC 6750 §2.1)")
	}
	if err := c.checkBinding(t); err != nil {
		return nil, err
	}
	var expiresIn time.Duration
	if !t.Expiry.IsZero() {
		expiresIn = t.Expiry.Sub(received).Round(time.Second) // x/oauth2 has counted it from when it read the reply
	}
	end, life, err := expiry.Of(expiry.Reply{
		AccessToken: t.AccessToken,
		ExpiresIn:   expiresIn,
		Sent:        sent,
		Received:    received,
		Date:        date,
	})
	if err != nil {
		return nil, err
	}
	t.Expiry = end
	return &refresh.Token{
		Token:         *t,
		Authorization: "Bearer " + t.AccessToken,
		Sent:          sent,
		Lifetime:      life,
	}, nil
}

// tokenType is what a token_type looks like (DPoP, mac, N_A), and no token does.
var tokenType = regexp.MustCompile(`^[A-Za-z_]{1,12}$`)

// isB64Token reports whether s has the syntax of RFC 6750 §2.1.
func isB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && !strings.ContainsFunc(body, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._~+/", c))
	})
}

// checkBinding refuses a token that is bound to another certificate than ours:
// Mosaic has then seen another one in the handshake.
func (c *Client) checkBinding(t *oauth2.Token) error {
	if c.leaf == "" {
		return nil
	}
	claims := jwt.MapClaims{} // whatever types they have: they are for Mosaic to judge
	_, _, _ = jwt.NewParser().ParseUnverified(t.AccessToken, claims)
	confirmation, _ := claims["cnf"].(map[string]any)
	if thumbprint, _ := confirmation["x5t#S256"].(string); thumbprint != "" && thumbprint != c.leaf {
		return errors.New("it is bound to another certificate than Config.Certificate: something on the way ends the TLS connection")
	}
	return nil
}
