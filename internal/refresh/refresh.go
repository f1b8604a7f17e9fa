// Package refresh caches one access token and renews it ahead of its expiry, so
// that callers do not wait for a renewal or notice an outage of the token
// endpoint.
//
// A token's life:
//
//	|---------- fresh ----------|------- due -------|- margin -|
//	0                      3/5 … 2/3           10 s or 10 %   end
//
// Due, it is renewed in the background and still served. In the margin calls wait
// for the renewal, unless requests are failing: then the token is served to its
// end.
package refresh

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"example.com/mosaic/internal/guard"
	"golang.org/x/oauth2"
)

// A Token is the result of a fetch. It is immutable and shared.
type Token struct {
	oauth2.Token                // its Expiry without a monotonic reading
	Authorization string        // the header's value
	Sent          time.Time     // when it was requested, with a monotonic reading
	Lifetime      time.Duration // from Sent
}

// Log writes the record of a token that took so long to obtain.
func (t *Token) Log(log *slog.Logger, took time.Duration) {
	log.Debug("mosaic: token obtained", "lifetime", t.Lifetime.Round(time.Second), "took", took)
}

// left returns the rest of the token's life, by the wall clock or by the time
// elapsed, whichever is less: wall clocks are stepped, and only they advance while
// a machine sleeps.
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
	// maxMargin covers a request's way and clocks that differ by some seconds.
	// It is the margin of x/oauth2.
	maxMargin = 10 * time.Second

	// minAge is the age from which a token can have been revoked: a 401 to a
	// younger one has another cause, and a renewal would not help.
	minAge = 10 * time.Second

	// With a good token nobody waits, so the pauses between failed requests may
	// grow to a minute: a token is due for 20. Without one every caller fails, so
	// a request follows every two seconds; only after refusals, which a person has
	// to mend, the pauses grow further.
	firstPause         = time.Second
	maxPauseGood       = time.Minute
	maxPauseTransient  = 2 * time.Second
	maxPauseRefused    = 30 * time.Second
	maxPauseRetryAfter = time.Minute // longer would outlast most outages

	// Attempts is the number of a request that callers wait for. After two failures
	// in a row it is one.
	Attempts = 3

	warnEvery = time.Minute // between the warnings of one outage
)

// A Source is a cached token and its renewal. It is safe for concurrent use,
// holds no goroutine between requests, and needs no Close.
type Source struct {
	fetch   func(ctx context.Context, attempts int) (*Token, error)
	log     *slog.Logger
	current atomic.Pointer[entry]

	mu           sync.Mutex // guards the following; not held while foreign code runs
	inflight     *request   // nil: none
	timer        *time.Timer
	failures     int       // in a row
	deadFailures int       // of them, those without a good token
	refusals     int       // of those, the refusals since the last other failure
	err          error     // the last failure's
	pausedUntil  time.Time // no request before
	askedUntil   time.Time // the part of the pause that the endpoint asked for
	replaced     time.Time // when Replace last began a request
	warned       time.Time
}

// An entry is the current token with its use.
type entry struct {
	*Token
	due      time.Duration // before the end: the token is renewed
	margin   time.Duration // before the end: callers wait
	used     atomic.Bool
	renewing atomic.Bool // its renewal was begun; the timer retries it
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
	done    chan struct{}
	ahead   bool   // it began with a good token
	dropped string // an access token that Invalidate dropped meanwhile; guarded by Source.mu

	// Set before done is closed. Both are nil if the fetch brought dropped.
	result *entry
	err    error
}

// New returns a Source over fetch, which makes a token request of up to so many
// attempts. A fetch ends in bounded time, or with its context.
func New(fetch func(ctx context.Context, attempts int) (*Token, error), log *slog.Logger) *Source {
	return &Source{fetch: fetch, log: log}
}

// Token returns the current token. Without a good one it waits for a request, until
// ctx ends.
func (s *Source) Token(ctx context.Context) (*Token, error) {
	if e := s.current.Load(); e != nil {
		if left := e.left(time.Now()); left > e.margin {
			if left <= e.due && !e.renewing.Load() && e.renewing.CompareAndSwap(false, true) {
				s.mu.Lock()
				s.renew()
				s.mu.Unlock()
			}
			return e.take(), nil
		}
	}
	return s.wait(ctx)
}

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
		// A pause made while a token was good does not count.
		if s.inflight == nil && (s.deadFailures > 0 && now.Before(s.pausedUntil) || now.Before(s.askedUntil)) {
			err := s.err
			s.mu.Unlock()
			return nil, err
		}
		if ended != nil {
			s.mu.Unlock()
			return nil, waitError{ended}
		}
		r := s.join()
		s.mu.Unlock()

		select {
		case <-r.done:
		case <-ctx.Done():
			return nil, waitError{ctx.Err()}
		}
		switch {
		case r.result != nil:
			return r.result.take(), nil
		case r.err != nil && !r.ahead:
			return nil, r.err
		}
		// A request ahead that failed is tried again with the patience of a caller.
	}
}

// A waitError is a context's error, with the Timeout method of net/http's.
type waitError struct{ error }

func (e waitError) Error() string { return "mosaic: waiting for a token: " + e.error.Error() }
func (e waitError) Unwrap() error { return e.error }
func (e waitError) Timeout() bool { return errors.Is(e.error, context.DeadlineExceeded) }

// Invalidate drops the token if it is the current one. A request in flight does
// not bring it back.
func (s *Source) Invalidate(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.current.Load(); e != nil && e.AccessToken == accessToken {
		s.current.Store(nil)
		s.timer.Stop()
		if s.inflight != nil {
			s.inflight.dropped = accessToken
		}
	}
}

// closed is the done channel of a request long finished.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Replace is for a request with the token old that was answered 401. It reports
// whether a successor is coming: done is closed when it is there or has failed,
// and [Source.Token] then tells. Until then old stays in service.
//
// Replace begins no request for a token younger than ten seconds, none within
// pause after it last began one, and none in a pause after a failure.
func (s *Source) Replace(old *Token, pause time.Duration) (done <-chan struct{}, coming bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.current.Load(); e != nil && e.Token != old {
		return closed, true
	}
	if s.inflight == nil {
		now := time.Now()
		if now.Sub(old.Sent) < minAge || !s.replaced.IsZero() && now.Sub(s.replaced) < pause || now.Before(s.pausedUntil) {
			return nil, false
		}
		s.replaced = now
	}
	return s.join().done, true
}

// renew begins a request unless a pause is on, at whose end the timer does. The
// caller holds s.mu.
func (s *Source) renew() {
	if !time.Now().Before(s.pausedUntil) {
		s.join()
	}
}

// join returns the request in flight, or begins one. The caller holds s.mu.
func (s *Source) join() *request {
	if s.inflight != nil {
		return s.inflight
	}
	r := &request{done: make(chan struct{})}
	s.inflight = r
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if e := s.current.Load(); e != nil {
		left := e.left(time.Now())
		r.ahead = left > 0
		if r.ahead && s.failures > 0 {
			// If this request hangs, the callers after the token's end do not wait
			// for it: the endpoint may have recovered.
			ctx, cancel = context.WithTimeout(ctx, left)
		}
	}
	attempts := Attempts
	if r.ahead || s.failures >= 2 {
		attempts = 1
	}
	begun := time.Now()
	guard.Go("mosaic: token request", s.log, func() (*Token, error) {
		defer cancel()
		return s.fetch(ctx, attempts)
	}, func(tok *Token, err error) { s.finish(r, tok, err, time.Since(begun)) })
	return r
}

// finish ends a request: the token is installed or the failure noted, the waiters
// are released, and then it is logged.
func (s *Source) finish(r *request, tok *Token, err error, took time.Duration) {
	s.mu.Lock()
	s.inflight = nil
	now := time.Now()
	var report func()
	if err != nil {
		r.err = err
		report = s.fail(r, now)
	} else {
		if tok.AccessToken != r.dropped {
			r.result = s.install(tok, now)
		}
		report = func() { tok.Log(s.log, took) }
	}
	s.mu.Unlock()
	close(r.done)
	report()
}

// install makes tok the current token. The caller holds s.mu.
func (s *Source) install(tok *Token, now time.Time) *entry {
	e := &entry{
		Token: tok,
		// Random, so that a fleet started together does not renew together; early,
		// so that an outage has a third of the token's life to pass.
		due:    tok.Lifetime/3 + rand.N(tok.Lifetime/15),
		margin: min(maxMargin, tok.Lifetime/10),
	}
	s.failures, s.deadFailures, s.refusals, s.err = 0, 0, 0, nil
	s.pausedUntil, s.askedUntil = time.Time{}, time.Time{}
	s.current.Store(e)
	s.arm(e.left(now) - e.due)
	return e
}

// fail notes a failed request. The caller holds s.mu.
func (s *Source) fail(r *request, now time.Time) (report func()) {
	var refused bool
	var retryAfter time.Duration
	if f := Failure(nil); errors.As(r.err, &f) {
		refused, retryAfter = f.Refused(), min(f.RetryAfter(), maxPauseRetryAfter)
	}
	s.failures++
	s.err = r.err

	var pause time.Duration
	e := s.current.Load()
	if r.ahead {
		pause = doubled(s.failures, maxPauseGood)
		if e != nil { // shorter again towards the token's end
			pause = min(pause, max(e.left(now)/2, firstPause))
		}
	} else {
		s.deadFailures++
		s.refusals++
		if !refused {
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
	s.pausedUntil, s.askedUntil = now.Add(pause), now.Add(retryAfter)
	if e != nil {
		s.arm(max(pause, e.left(now)-e.due)) // Replace may have failed before the token was due
	}

	if s.failures > 1 && now.Sub(s.warned) < warnEvery {
		return func() {}
	}
	s.warned = now
	failures := s.failures
	return func() {
		s.log.Warn("mosaic: token renewal failed", "error", r.err, "failures", failures, "retry_in", pause.Round(time.Millisecond))
	}
}

// doubled returns the n-th pause, n counting from one.
func doubled(n int, limit time.Duration) time.Duration {
	return min(firstPause<<min(n-1, 10), limit)
}

// arm sets the timer. It holds s weakly, so that a source that nobody uses any
// more is collected at once and renews nothing. The caller holds s.mu.
func (s *Source) arm(d time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
	}
	ref := weak.Make(s)
	s.timer = time.AfterFunc(d, func() {
		if s := ref.Value(); s != nil {
			s.tick()
		}
	})
}

// tick renews the current token if it is due and used. An expired one waits for a
// call.
func (s *Source) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.current.Load()
	if e == nil || !e.used.Load() {
		return
	}
	switch left := e.left(time.Now()); {
	case left > e.due: // the wall clock was set back
		e.renewing.Store(false)
		s.arm(left - e.due)
	case left > 0:
		e.renewing.Store(true)
		s.renew()
	}
}
