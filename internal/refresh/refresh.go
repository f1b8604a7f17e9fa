// Package refresh caches one access token and renews it before it expires, so that callers neither
// wait for a renewal nor notice an outage of the token endpoint.
//
// A token's life:
//
//	|---------- fresh ----------|------- due -------|- margin -|
//	0                      3/5 … 2/3           10 s or 10 %   end
//
// When a token is due, it is renewed in the background and still served. In the margin, calls wait
// for the renewal. While requests are failing, the token is served until it expires.
package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/guard"
)

// A Token is the result of a fetch. It is immutable and shared.
type Token struct {
	oauth2.Token                    // its Expiry has no monotonic reading
	Authorization string            // the value of the Authorization header
	Sent          time.Time         // when the token was requested, with a monotonic reading
	Lifetime      time.Duration     // counted from Sent
	Via           http.RoundTripper // sends the requests with this token; if nil, any transport may
}

// left returns the rest of the token's life, by the wall clock or by the elapsed time, whichever is
// less: a wall clock may be set back, and while a machine sleeps only the wall clock advances.
func (t *Token) left(now time.Time) time.Duration {
	return min(t.Expiry.Sub(now), t.Lifetime-now.Sub(t.Sent))
}

const (
	// Attempts is the number of times a request is tried while callers are waiting for it. After two
	// failures in a row, a request is tried once.
	Attempts = 3

	// maxMargin allows for the time that a request with the token takes, and for a few seconds of
	// clock skew. x/oauth2 uses the same margin.
	maxMargin = 10 * time.Second

	// minAge is the minimum age of a token that Replace renews. A 401 for a younger token has some
	// other cause, so renewing would not help.
	minAge = 10 * time.Second

	// replaceEvery is the minimum time between two renewals after a 401, because some paths answer 401
	// to every token.
	replaceEvery = time.Minute
)

// A Source caches a token and renews it. It is safe for concurrent use, occupies no goroutine
// between requests, and needs no Close.
type Source struct {
	fetch   func(ctx context.Context, attempts int) (*Token, error)
	log     *slog.Logger
	timer   *time.Timer // begins the renewal of the current token, or retries it
	current atomic.Pointer[entry]

	mu       sync.Mutex // guards the fields below; not held while user-supplied code runs
	inflight *request   // nil if there is none
	outage   outage
	replaced time.Time // when Replace last began a request
}

// An entry is the current token and whether it has been used.
type entry struct {
	*Token
	due    time.Duration // a renewal begins this long before the token expires
	margin time.Duration // callers treat the token as expired this long before it does
	used   atomic.Bool
}

// take returns the token and marks it as used.
func (e *entry) take() *Token {
	if !e.used.Load() { // if every call stored, calls would contend for the cache line
		e.used.Store(true)
	}
	return e.Token
}

// A request is one fetch in flight, shared by all callers that wait for it.
type request struct {
	begun   time.Time
	done    chan struct{}
	renewal bool // there was a good token when the request began

	// Either result or err is set before done is closed.
	result *entry
	err    error
}

// New returns a Source. fetch makes a token request in at most the given number of attempts, and
// returns in bounded time or when its context ends. log must not block, so its handler should be a
// guard.Handler.
func New(fetch func(ctx context.Context, attempts int) (*Token, error), log *slog.Logger) *Source {
	s := &Source{fetch: fetch, log: log}
	weakly := weak.Make(s) // so that a dropped source is collected while its timer is running
	s.timer = time.AfterFunc(time.Hour, func() {
		if s := weakly.Value(); s != nil {
			if e := s.current.Load(); e != nil && e.used.Load() {
				s.renew(e)
			}
		}
	})
	s.timer.Stop()
	return s
}

// Token returns the current token. If there is no good token, it waits until a request or ctx ends.
func (s *Source) Token(ctx context.Context) (*Token, error) {
	if e := s.current.Load(); e != nil {
		if left := e.left(time.Now()); left > e.margin {
			if left <= e.due {
				s.renew(e)
			}
			return e.take(), nil
		}
	}
	return s.wait(ctx)
}

// renew begins a request if e is current and due. While requests are paused it does nothing: the
// timer begins the request when the pause ends.
func (s *Source) renew(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch left := e.left(now); {
	case s.current.Load() != e, left <= 0: // the next call renews an expired token
	case left > e.due: // the wall clock was set back
		s.timer.Reset(left - e.due)
	case !now.Before(s.outage.renewAt):
		s.join()
	}
}

// wait returns the token from a request. In a pause it returns the error from the last request. If
// ctx ends first, it returns a waitError.
func (s *Source) wait(ctx context.Context) (*Token, error) {
	for {
		ended := ctx.Err()
		s.mu.Lock()
		now, failure := time.Now(), s.outage.err
		if e := s.current.Load(); e != nil {
			if left := e.left(now); left > e.margin || left > 0 && s.outage.failures > 0 {
				s.mu.Unlock()
				return e.take(), nil
			}
		}
		if s.inflight == nil && (ended != nil || now.Before(s.outage.callAt)) {
			s.mu.Unlock()
			if ended != nil {
				return nil, waitError{ended, "", failure}
			}
			return nil, failure
		}
		r := s.join()
		s.mu.Unlock()

		select {
		case <-r.done:
		case <-ctx.Done():
			ago := time.Since(r.begun).Round(time.Second)
			return nil, waitError{ctx.Err(), fmt.Sprintf(" (requested %s ago)", ago), failure}
		}
		switch {
		case r.result != nil:
			return r.result.take(), nil
		case !r.renewal:
			return nil, r.err
		}
		// A renewal that failed had one attempt; the next request has three.
	}
}

// A waitError says that the caller's context ended the wait for a token. It is a net.Error, because
// code that retries looks for a net.Error.
type waitError struct {
	cause   error  // from the context
	request string // how long the request has been running; empty if there was none
	failure error  // from the previous request; nil if that did not fail
}

func (e waitError) Error() string {
	text := "mosaic: waiting for a token" + e.request + ": " + e.cause.Error()
	if e.failure != nil {
		text += "; the last request failed: " + strings.TrimPrefix(e.failure.Error(), "mosaic: ")
	}
	return text
}
func (e waitError) Unwrap() error   { return e.cause }
func (e waitError) Timeout() bool   { return errors.Is(e.cause, context.DeadlineExceeded) }
func (e waitError) Temporary() bool { return e.Timeout() }

// join returns the request in flight, or begins one. The caller holds s.mu.
func (s *Source) join() *request {
	if s.inflight != nil {
		return s.inflight
	}
	r := &request{begun: time.Now(), done: make(chan struct{})}
	s.inflight = r
	bound := time.Hour // never reached: a fetch ends sooner on its own
	if e := s.current.Load(); e != nil {
		left := e.left(r.begun)
		r.renewal = left > 0
		e.used.Store(true) // so that the timer retries
		if r.renewal && s.outage.failures > 0 {
			// If this request hangs, calls after the token has expired must not wait for it, because
			// the endpoint may have recovered.
			bound = left
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	attempts := Attempts
	if r.renewal || s.outage.failures >= 2 {
		attempts = 1
	}
	guard.Go("mosaic: token request", s.log, func() (*Token, error) {
		defer cancel()
		tok, err := s.fetch(ctx, attempts)
		if err != nil && ctx.Err() != nil { // ctx's error would look like that of a caller's context
			err = errors.New("mosaic: token request without a reply at the token's end")
		}
		return tok, err
	}, func(tok *Token, err error) {
		s.mu.Lock()
		s.inflight = nil
		if now := time.Now(); err == nil {
			s.succeed(r, tok, now)
		} else {
			s.fail(r, err, now)
		}
		s.mu.Unlock()
		close(r.done)
	})
	return r
}

// succeed makes tok the current token. The caller holds s.mu.
func (s *Source) succeed(r *request, tok *Token, now time.Time) {
	tok.LogObtained(s.log, now.Sub(r.begun), s.outage.attrs(now)...)
	s.outage = outage{}
	r.result = &entry{
		Token: tok,
		// Random, so that a fleet started together does not renew together. Early, so that an outage
		// of a third of the token's life goes unnoticed.
		due:    tok.Lifetime/3 + rand.N(tok.Lifetime/15),
		margin: min(maxMargin, tok.Lifetime/10),
	}
	s.current.Store(r.result)
	s.timer.Reset(tok.left(now) - r.result.due)
}

// LogObtained logs a new token at debug or, with attrs that describe earlier failures, at info.
func (t *Token) LogObtained(log *slog.Logger, took time.Duration, attrs ...any) {
	level := slog.LevelDebug
	if len(attrs) > 0 {
		level = slog.LevelInfo
	}
	attrs = append([]any{"lifetime", t.Lifetime.Round(time.Second), "took", took}, attrs...)
	log.Log(context.Background(), level, "mosaic: token obtained", attrs...)
}

// fail notes a failed request and sets the timer to retry it. The caller holds s.mu.
func (s *Source) fail(r *request, err error, now time.Time) {
	r.err = err
	e, left := s.current.Load(), time.Duration(0)
	if e != nil {
		left = e.left(now)
	}
	s.outage = s.outage.failed(err, r.renewal, left, now)
	attrs := []any{"error", err, "took", now.Sub(r.begun), "failures", s.outage.failures}
	if e != nil {
		retry := max(s.outage.renewAt.Sub(now), left-e.due) // a request begun by Replace may fail before the token is due
		s.timer.Reset(retry)
		if retry < left {
			attrs = append(attrs, "retry_in", retry.Round(time.Millisecond))
		}
	}
	if now.Sub(s.outage.warned) >= warnEvery {
		s.outage.warned = now
		s.log.Warn("mosaic: token request failed", attrs...)
	}
}

// Replace renews old after a 401. It reports whether a successor is coming. If so, the channel is
// closed once the successor has arrived or its request has failed; call [Source.Token] then. Until
// then, old stays in service.
//
// Replace begins no request if old is younger than ten seconds, if Replace began another request
// less than a minute ago, or during the pause that follows a failure.
func (s *Source) Replace(old *Token) (done <-chan struct{}, coming bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.current.Load(); e != nil && e.Token != old {
		return closed, true
	}
	if s.inflight == nil {
		now := time.Now()
		if now.Sub(old.Sent) < minAge || now.Sub(s.replaced) < replaceEvery || now.Before(s.outage.renewAt) {
			return nil, false
		}
		s.replaced = now
	}
	return s.join().done, true
}

// closed is the done channel of a request that ended long ago.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Invalidate drops the token if it is the current one. If a request is in flight, the next call
// waits for that request's token, which is a different one, because the endpoint issues a new token
// each time.
func (s *Source) Invalidate(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.current.Load(); e != nil && e.AccessToken == accessToken {
		s.current.Store(nil)
	}
}
