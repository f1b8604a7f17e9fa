// Package refresh caches one access token and renews it before its expiry, so that callers do not
// wait for a renewal or notice an outage of the token endpoint.
//
// A token's life:
//
//	|---------- fresh ----------|------- due -------|- margin -|
//	0                      3/5 … 2/3           10 s or 10 %   end
//
// Due, it is renewed in the background and still served. In the margin calls wait for the renewal,
// unless requests are failing: then the token is served to its end.
package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/guard"
)

// A Token is the result of a fetch. It is immutable and shared.
type Token struct {
	oauth2.Token                    // its Expiry without a monotonic reading
	Authorization string            // the header's value
	Sent          time.Time         // when it was requested, with a monotonic reading
	Lifetime      time.Duration     // from Sent
	Via           http.RoundTripper // sends the requests with this token; nil: any may
}

// left returns the rest of the token's life, by the wall clock or by the time elapsed, whichever is
// less: wall clocks are stepped, and only they advance while a machine sleeps.
func (t *Token) left(now time.Time) time.Duration {
	return min(t.Expiry.Sub(now), t.Lifetime-now.Sub(t.Sent))
}

// A Failure is a fetch's error with advice on the next fetch.
type Failure interface {
	error
	Refused() bool             // the next request will be refused, too
	RetryAfter() time.Duration // as the endpoint asked; zero: it did not
}

const (
	// Attempts is the number of attempts of a request that callers wait for. After two failures in
	// a row it is one.
	Attempts = 3

	// maxMargin covers the time a request with the token takes, and clocks that differ by some
	// seconds. x/oauth2 has the same.
	maxMargin = 10 * time.Second

	// minAge: a 401 to a younger token has another cause, and a renewal would not help.
	minAge = 10 * time.Second

	// A path that answers 401 for good must not cost more than a renewal in this time.
	replaceEvery = time.Minute

	// With a good token nobody waits, so the pauses between failed requests may grow to a minute:
	// an hour's token leaves 20 for retries. Without one every caller fails, so a request follows
	// every two seconds. After refusals, which need a person, the pauses grow to 30 s.
	firstPause         = time.Second
	maxPauseGood       = time.Minute
	maxPauseTransient  = 2 * time.Second
	maxPauseRefused    = 30 * time.Second
	maxPauseRetryAfter = time.Minute // longer would outlast most outages

	warnEvery = time.Minute // between the warnings of one outage
)

// A Source is a cached token and its renewal. It is safe for concurrent use, holds no goroutine
// between requests, and needs no Close.
type Source struct {
	fetch   func(ctx context.Context, attempts int) (*Token, error)
	log     *slog.Logger
	timer   *time.Timer // of the current token: its renewal, or a retry
	current atomic.Pointer[entry]

	mu           sync.Mutex // guards the following; not held while foreign code runs
	inflight     *request   // nil: none
	failures     int        // in a row
	deadFailures int        // without a good token, in a row
	refusals     int        // of these, the refusals since the last other failure
	failingSince time.Time  // when the first of them ended
	warned       time.Time  // when one was last logged
	err          error      // the last failure's
	pausedUntil  time.Time  // until then no renewal begins
	errUntil     time.Time  // until then calls without a good token get err
	replaced     time.Time  // when Replace last began a request
}

// An entry is the current token with its use.
type entry struct {
	*Token
	due    time.Duration // a renewal begins this long before the end
	margin time.Duration // callers count it as expired this long before the end
	used   atomic.Bool
}

// take returns the token and marks it as used.
func (e *entry) take() *Token {
	if !e.used.Load() { // a store by every call would contend for the cache line
		e.used.Store(true)
	}
	return e.Token
}

// A request is one fetch in flight, shared by all who wait.
type request struct {
	begun   time.Time
	done    chan struct{}
	renewal bool // it began with a good token

	// One of the two is set before done is closed.
	result *entry
	err    error
}

// New returns a Source. fetch makes a token request of at most attempts attempts, in bounded time
// or until its context ends. The log must not block: its handler is a guard.Handler.
func New(fetch func(ctx context.Context, attempts int) (*Token, error), log *slog.Logger) *Source {
	s := &Source{fetch: fetch, log: log}
	weakly := weak.Make(s) // a dropped source is collected
	s.timer = time.AfterFunc(time.Hour, func() {
		if s := weakly.Value(); s != nil {
			if e := s.current.Load(); e != nil && e.used.Load() {
				s.renew(e)
			}
		}
	})
	s.timer.Stop()
	// A cleanup runs outside a synctest bubble and must not stop a timer of it. Only in a bubble
	// has Now no monotonic reading.
	if now := time.Now(); now != now.Round(0) {
		runtime.AddCleanup(s, func(timer *time.Timer) { timer.Stop() }, s.timer)
	}
	return s
}

// Token returns the current token. Without a good one it waits for a request, until ctx ends.
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

// renew begins a request if e is current and due, except in a pause: at its end the timer does.
func (s *Source) renew(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch left := e.left(now); {
	case s.current.Load() != e, left <= 0: // an expired one waits for a call
	case left > e.due: // the wall clock was set back
		s.timer.Reset(left - e.due)
	case !now.Before(s.pausedUntil):
		s.join()
	}
}

// wait returns the token after a request. In a pause it returns the last error, or ctx's if ctx has
// ended.
func (s *Source) wait(ctx context.Context) (*Token, error) {
	for {
		ended := ctx.Err()
		s.mu.Lock()
		now := time.Now()
		if e := s.current.Load(); e != nil {
			if left := e.left(now); left > e.margin || left > 0 && s.failures > 0 {
				s.mu.Unlock()
				return e.take(), nil
			}
		}
		if s.inflight == nil && (now.Before(s.errUntil) || ended != nil) {
			err := s.err
			if ended != nil {
				err = waitError{ended, ""}
			}
			s.mu.Unlock()
			return nil, err
		}
		r := s.join()
		s.mu.Unlock()

		select {
		case <-r.done:
		case <-ctx.Done():
			return nil, waitError{ctx.Err(), fmt.Sprintf(" (requested %s ago)", time.Since(r.begun).Round(time.Second))}
		}
		switch {
		case r.result != nil:
			return r.result.take(), nil
		case !r.renewal:
			return nil, r.err
		}
		// A failed renewal had one attempt: the next request has three.
	}
}

// A waitError is the error of a context that ended a wait. As net/http's, it has a Timeout method.
type waitError struct {
	cause   error
	request string // how long it has run; empty: there was none
}

func (e waitError) Error() string {
	return "mosaic: waiting for a token" + e.request + ": " + e.cause.Error()
}
func (e waitError) Unwrap() error { return e.cause }
func (e waitError) Timeout() bool { return errors.Is(e.cause, context.DeadlineExceeded) }

// join returns the request in flight, or begins one. The caller holds s.mu.
func (s *Source) join() *request {
	if s.inflight != nil {
		return s.inflight
	}
	r := &request{begun: time.Now(), done: make(chan struct{})}
	s.inflight = r
	bound := time.Hour // a fetch ends earlier by itself
	if e := s.current.Load(); e != nil {
		left := e.left(r.begun)
		r.renewal = left > 0
		e.used.Store(true) // so the timer retries
		if r.renewal && s.failures > 0 {
			// If this request hangs, the callers after the token's end do not wait for it: the
			// endpoint may have recovered.
			bound = left
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	attempts := Attempts
	if r.renewal || s.failures >= 2 {
		attempts = 1
	}
	guard.Go("mosaic: token request", s.log, func() (*Token, error) {
		defer cancel()
		tok, err := s.fetch(ctx, attempts)
		if err != nil && ctx.Err() != nil { // not the end of a caller's context
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
	var failures []any
	if s.failures > 0 {
		failures = []any{"failures", s.failures, "failing_for", now.Sub(s.failingSince).Round(time.Millisecond)}
	}
	tok.LogObtained(s.log, now.Sub(r.begun), failures...)
	s.failures, s.deadFailures, s.refusals, s.err = 0, 0, 0, nil
	s.pausedUntil, s.errUntil = time.Time{}, time.Time{}
	r.result = &entry{
		Token: tok,
		// Random: a fleet started together must not renew together. Early: an outage has a third of
		// the token's life to pass.
		due:    tok.Lifetime/3 + rand.N(tok.Lifetime/15),
		margin: min(maxMargin, tok.Lifetime/10),
	}
	s.current.Store(r.result)
	s.timer.Reset(tok.left(now) - r.result.due)
}

// LogObtained records a new token: at debug, or, after failures, at info with them in attrs.
func (t *Token) LogObtained(log *slog.Logger, took time.Duration, attrs ...any) {
	level := slog.LevelDebug
	if len(attrs) > 0 {
		level = slog.LevelInfo
	}
	attrs = append([]any{"lifetime", t.Lifetime.Round(time.Second), "took", took}, attrs...)
	log.Log(context.Background(), level, "mosaic: token obtained", attrs...)
}

// fail notes a failed request. The caller holds s.mu.
func (s *Source) fail(r *request, err error, now time.Time) {
	r.err, s.err = err, err
	var refused bool
	var retryAfter time.Duration
	if f := Failure(nil); errors.As(err, &f) {
		refused, retryAfter = f.Refused(), min(f.RetryAfter(), maxPauseRetryAfter)
	}
	if s.failures++; s.failures == 1 {
		s.failingSince = now
	}
	var pause time.Duration
	e := s.current.Load()
	if r.renewal {
		pause = doubled(s.failures, maxPauseGood)
		if e != nil { // shorter again towards the token's end
			pause = min(pause, max(e.left(now)/2, firstPause))
		}
	} else {
		if s.deadFailures++; refused {
			s.refusals++
		} else {
			s.refusals = 0
		}
		switch {
		case s.deadFailures == 1:
		case refused:
			pause = doubled(max(s.refusals-1, 1), maxPauseRefused)
		default:
			pause = doubled(s.deadFailures-1, maxPauseTransient)
		}
	}
	if pause > 0 {
		pause = pause*3/4 + rand.N(pause/2)
	}
	pause = max(pause, retryAfter)
	s.pausedUntil, s.errUntil = now.Add(pause), now.Add(pause)
	if r.renewal { // calls without a token ignore a pause begun with one
		s.errUntil = now.Add(retryAfter)
	}

	attrs := []any{"error", err, "took", now.Sub(r.begun), "failures", s.failures}
	if e != nil {
		left := e.left(now)
		retry := max(pause, left-e.due) // Replace may have failed before the token was due
		s.timer.Reset(retry)
		if retry < left {
			attrs = append(attrs, "retry_in", retry.Round(time.Millisecond))
		}
	}
	if s.failures == 1 || now.Sub(s.warned) >= warnEvery {
		s.warned = now
		s.log.Warn("mosaic: token request failed", attrs...)
	}
}

// doubled returns the n-th pause, n counting from one.
func doubled(n int, limit time.Duration) time.Duration {
	return min(firstPause<<min(n-1, 10), limit)
}

// Replace renews old after a 401. It reports whether a successor is coming: done is closed when it
// is there or has failed, then call [Source.Token]. Until then old stays in service.
//
// Replace begins no request if old is younger than ten seconds, if Replace began a request less than
// a minute ago, or in the pause after a failure.
func (s *Source) Replace(old *Token) (done <-chan struct{}, coming bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.current.Load(); e != nil && e.Token != old {
		return closed, true
	}
	if s.inflight == nil {
		now := time.Now()
		if now.Sub(old.Sent) < minAge || now.Sub(s.replaced) < replaceEvery || now.Before(s.pausedUntil) {
			return nil, false
		}
		s.replaced = now
	}
	return s.join().done, true
}

// closed is the done channel of a request long finished.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Invalidate drops the token if it is the current one. The next call then waits for the request in
// flight, if there is one, and accepts its token: the endpoint issues a new token each time.
func (s *Source) Invalidate(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.current.Load(); e != nil && e.AccessToken == accessToken {
		s.current.Store(nil)
	}
}
