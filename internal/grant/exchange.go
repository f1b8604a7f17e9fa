package grant

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxReply bounds the body of a reply. A token response has about two KiB.
const maxReply = 1 << 20

// An exchange is the RoundTripper of one attempt. It reads the reply whole, so
// that a body that breaks off is a transport error like any other.
type exchange struct {
	base     http.RoundTripper
	response *http.Response // nil: there was none
	broken   bool           // the body broke off
}

func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := x.base.RoundTrip(req)
	if err != nil || res == nil {
		return res, err
	}
	x.response = res
	if res.Body == nil { // from a RoundTripper other than net/http's
		res.Body = http.NoBody
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	res.Body.Close()
	if err != nil {
		x.broken = true
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// date returns the reply's Date, or zero.
func (x *exchange) date() time.Time {
	if x.response == nil {
		return time.Time{}
	}
	date, _ := http.ParseTime(x.response.Header.Get("Date"))
	return date
}

// maxRetryAfter bounds a Retry-After, in seconds: a year.
const maxRetryAfter = 366 * 24 * 3600

// retryAfter returns the wait that the reply asks for (RFC 9110 §10.2.3), or zero.
func (x *exchange) retryAfter() time.Duration {
	if x.response == nil {
		return 0
	}
	value := x.response.Header.Get("Retry-After")
	seconds, err := strconv.Atoi(value)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(max(seconds, 0), maxRetryAfter)) * time.Second
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
