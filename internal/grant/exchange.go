package grant

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// An exchange is one HTTP exchange, of which it notes what x/oauth2 drops.
type exchange struct {
	base     http.RoundTripper // nil: http.DefaultTransport
	response *http.Response    // nil: there was none
	bodyErr  error             // that reading the body ended with, but for io.EOF
}

func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	base := x.base
	if base == nil {
		base = http.DefaultTransport
	}
	res, err := base.RoundTrip(req)
	if err == nil && res != nil {
		x.response = res
		if res.Body != nil { // nil from a RoundTripper that is not net/http's
			res.Body = &notedBody{res.Body, x}
		}
	}
	return res, err
}

type notedBody struct {
	io.ReadCloser
	x *exchange
}

func (b *notedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.x.bodyErr = err
	}
	return n, err
}

// date returns the reply's Date, or zero.
func (x *exchange) date() time.Time {
	if x.response == nil {
		return time.Time{}
	}
	date, _ := http.ParseTime(x.response.Header.Get("Date"))
	return date
}

// retryAfter returns how long the reply asks to wait (RFC 9110 §10.2.3), zero if
// it does not.
func (x *exchange) retryAfter() time.Duration {
	if x.response == nil {
		return 0
	}
	value := x.response.Header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now := x.date() // the server's clock, if it tells
	if now.IsZero() {
		now = time.Now()
	}
	return max(at.Sub(now), 0)
}
