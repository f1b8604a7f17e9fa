// Package refresh keeps one access token and renews it ahead of its expiry, so
// that nobody waits for a renewal and an outage of the token endpoint goes
// unnoticed.
//
// A token's life, on whichever clock says that more of it has passed:
//
//	|----------- fresh ----------|------- due -------|- closing -|
//	0                       3/5 … 2/3         10 s or 10 %      end
//
// While fresh it is served from memory. When it falls due it is renewed in the
// background, and goes on being served. In its closing seconds calls wait for
// the renewal, unless it is known to fail: then the token serves to its end.
package refresh

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"golang.org/x/oauth2"
)

// A Token is what a fetch obtains. It is immutable: many goroutines hold it.
type Token struct {
	oauth2.Token                // its Expiry without a monotonic reading
	Authorization string        // the header's value, built once
	Sent          time.Time     // when it was asked for, with a monotonic reading
	Lifetime      time.Duration // from Sent
}

// Log writes the record of a token that took so long to obtain.
func (t *Token) Log(log *slog.Logger, took time.Duration) {
	log.Debug("mosaic: token obtained", "lifetime", t.Lifetime.Round(time.Second), "took", took)
}

// A Failure is an error of a fetch that knows when the next one makes sense.
type Failure interface {
	error
	Refused() bool             // the endpoint answered, and will answer the same again
	RetryAfter() time.Duration // as the endpoint asked for; zero: it did not
}

const (
	// maxMargin bounds the closing part of a token's life. It covers the way of
	// a request and clocks that differ by a few seconds; it is what x/oauth2
	// keeps, too.
	maxMargin = 10 * time.Second

	// Pauses between renewals that fail. With a good token nobody waits, so they
	// may grow to a minute: a token falls due with 20 of them left. Without one
	// every caller fails, so a transient failure is retried every two seconds,
	// and only a refusal, which a person has to mend, less and less often.
	firstPause         = time.Second
	maxPauseGood       = time.Minute
	maxPauseTransient  = 2 * time.Second
	maxPauseRefused    = 30 * time.Second
	maxPauseRetryAfter = time.Minute // a longer Retry-After would outlast the outage

	// warnEvery is how often a log says that renewals go on failing.
	warnEvery = time.Minute
)

// A Source is a cached token and its renewal. It is safe for concurrent use,
// holds no goroutine while nothing is being fetched, and needs no closing.
type Source struct {
	fetch   func(ctx context.Context, once bool) (*Token, error)
	log     *slog.Logger
	current atomic.Pointer[held]
	failing atomic.Bool // the last renewal has failed

	mu           sync.Mutex // guards what follows; never held while foreign code runs
	renewal      *Renewal   // the one under way, or nil
	timer        *time.Timer
	failures     int       // in a row
	deadFailures int       // those of them that left callers without a token
	refusals     int       // of those, since the last that was no refusal
	err          error     // the last of them
	pausedUntil  time.Time // no renewal before
	askedUntil   time.Time // nor before this, as the endpoint has asked
	warned       time.Time
}

// held is the current token with what is known of its use.
type held struct {
	*Token
	due      time.Duration // it is renewed when no more than this is left of it
	margin   time.Duration // callers wait when no more than this is left of it
	used     atomic.Bool   // somebody got it
	renewing atomic.Bool   // it fell due and its renewal was begun; a retry is the timer's
}

// left returns what is left of the token's life: by the wall clock or by the
// time that has passed, whichever is less. Clocks are stepped, and the time
// that passes while a machine sleeps is counted by the wall clock alone.
func (h *held) left(now time.Time) time.Duration {
	return min(h.Expiry.Sub(now), h.Lifetime-now.Sub(h.Sent))
}

// take hands the token out.
func (h *held) take() *Token {
	if !h.used.Load() { // a store on every call would have the cores fight for the cache line
		h.used.Store(true)
	}
	return h.Token
}

// New returns a Source that obtains tokens by fetch: in one request if once is
// set, else with the patience that a waiting caller is worth. A fetch ends by
// itself, in bounded time, or with its context.
func New(fetch func(ctx context.Context, once bool) (*Token, error), log *slog.Logger) *Source {
	return &Source{fetch: fetch, log: log}
}

// Token returns the current token, or waits for one until ctx ends.
func (s *Source) Token(ctx context.Context) (*Token, error) {
	if h := s.current.Load(); h != nil {
		if left := h.left(time.Now()); s.serves(h, left) {
			if left <= h.due && !h.renewing.Load() && h.renewing.CompareAndSwap(false, true) {
				s.renew()
			}
			return h.take(), nil
		}
	}
	return s.wait(ctx)
}

// serves reports whether callers get h, of which so much is left.
func (s *Source) serves(h *held, left time.Duration) bool {
	return left > h.margin || left > 0 && s.failing.Load()
}

func (s *Source) wait(ctx context.Context) (*Token, error) {
	for {
		ended := ctx.Err()
		s.mu.Lock()
		now := time.Now()
		if h := s.current.Load(); h != nil && s.serves(h, h.left(now)) {
			s.mu.Unlock()
			return h.take(), nil
		}
		// A pause that was made while a token was good does not count.
		if s.renewal == nil && (s.deadFailures > 0 && now.Before(s.pausedUntil) || now.Before(s.askedUntil)) {
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

		tok, err := r.Wait(ctx)
		if tok != nil || err != nil && !r.ahead {
			return tok, err
		}
		// Else what is left of the old token serves, or a renewal that is meant
		// for callers who wait is begun, or ctx has ended.
	}
}

// A waitError is a context's error, with Timeout as net/http has it.
type waitError struct{ error }

func (e waitError) Error() string { return "mosaic: waiting for a token: " + e.error.Error() }
func (e waitError) Unwrap() error { return e.error }
func (e waitError) Timeout() bool { return errors.Is(e.error, context.DeadlineExceeded) }

// Invalidate drops the token if it is the current one, and keeps a renewal that
// is under way from bringing it back.
func (s *Source) Invalidate(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.current.Load(); h != nil && h.AccessToken == accessToken {
		s.current.Store(nil)
		s.timer.Stop()
		if s.renewal != nil {
			s.renewal.dropped = append(s.renewal.dropped, accessToken)
		}
	}
}

// Renew sees to a successor of old, which stays in service until that is there.
// If old is no longer the current token, it is there already. If no renewal is
// under way, one is begun where begin agrees, and where renewals have not been
// failing until just now; else Renew returns nil.
func (s *Source) Renew(old *Token, begin func() bool) *Renewal {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.current.Load()
	switch {
	case h != nil && h.Token != old:
		return &Renewal{done: closed, got: h}
	case s.renewal == nil && (time.Now().Before(s.pausedUntil) || !begin()):
		return nil
	}
	return s.join()
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// A Renewal is one fetch, for all who wait for it.
type Renewal struct {
	done    chan struct{}
	ahead   bool     // it began while there was a good token
	dropped []string // tokens that were invalidated meanwhile; guarded by Source.mu

	// Set before done is closed.
	got *held
	err error
}

// Wait returns what the renewal brings, or ctx's error if it ends first. It
// returns neither if the renewal brought a token that had been invalidated.
func (r *Renewal) Wait(ctx context.Context) (*Token, error) {
	select {
	case <-r.done:
		if r.got == nil {
			return nil, r.err
		}
		return r.got.take(), nil
	case <-ctx.Done():
		return nil, waitError{ctx.Err()}
	}
}

// renew begins a renewal in the background, if none is under way. In a pause it
// leaves that to the timer, which is set for the pause's end.
func (s *Source) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !time.Now().Before(s.pausedUntil) {
		s.join()
	}
}

// join returns the renewal that is under way, beginning one if there is none.
// The caller holds s.mu.
func (s *Source) join() *Renewal {
	if s.renewal != nil {
		return s.renewal
	}
	r := &Renewal{done: make(chan struct{})}
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if h := s.current.Load(); h != nil {
		left := h.left(time.Now())
		r.ahead = left > 0
		if r.ahead && s.failures > 0 {
			// One that hangs must not be what callers wait for when the token
			// has ended and the endpoint is well again.
			ctx, cancel = context.WithTimeout(ctx, left)
		}
	}
	once := r.ahead || s.failures >= 2
	s.renewal = r
	go func() {
		defer cancel()
		s.run(ctx, r, once)
	}()
	return r
}

// run fetches one token. Foreign code runs in it: whatever that does, a panic
// or runtime.Goexit included, the renewal ends and a later call begins another.
func (s *Source) run(ctx context.Context, r *Renewal, once bool) {
	defer close(r.done)
	begun := time.Now()
	var tok *Token
	err := errors.New("mosaic: the token request ended its goroutine (runtime.Goexit)")
	defer func() {
		var stack []byte
		if recover() != nil { // its value may hold anything, a secret too
			stack = debug.Stack()
			err = errors.New("mosaic: the token request panicked (its stack is in the log)")
		}
		report := s.land(r, tok, err)
		defer func() { _ = recover() }() // the log handler's
		if stack != nil {
			s.log.Error("mosaic: token request panicked", "stack", string(stack))
		}
		report(time.Since(begun))
	}()
	tok, err = s.fetch(ctx, once)
}

// land ends a renewal, and returns what is to be logged of it.
func (s *Source) land(r *Renewal, tok *Token, err error) (report func(took time.Duration)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewal = nil
	now := time.Now()
	if err != nil {
		r.err = err
		return s.fail(r, now)
	}
	if !slices.Contains(r.dropped, tok.AccessToken) {
		r.got = s.adopt(tok, now)
	}
	return func(took time.Duration) { tok.Log(s.log, took) }
}

// adopt makes tok the current token. The caller holds s.mu.
func (s *Source) adopt(tok *Token, now time.Time) *held {
	h := &held{
		Token: tok,
		// Drawn, so that a fleet that was started together does not renew
		// together; early, so that a third of a token's life is left for an
		// outage to pass.
		due:    tok.Lifetime/3 + rand.N(tok.Lifetime/15),
		margin: min(maxMargin, tok.Lifetime/10),
	}
	s.failures, s.deadFailures, s.refusals, s.err = 0, 0, 0, nil
	s.pausedUntil, s.askedUntil = time.Time{}, time.Time{} // in a pause, wait returns err
	s.current.Store(h)
	s.failing.Store(false)
	s.arm(h.left(now) - h.due)
	return h
}

// fail takes note of a renewal that failed. The caller holds s.mu.
func (s *Source) fail(r *Renewal, now time.Time) (report func(time.Duration)) {
	var refused bool
	var retryAfter time.Duration
	if f := Failure(nil); errors.As(r.err, &f) {
		refused, retryAfter = f.Refused(), min(f.RetryAfter(), maxPauseRetryAfter)
	}
	s.failures++
	s.err = r.err
	s.failing.Store(true)

	var pause time.Duration
	h := s.current.Load()
	if r.ahead {
		pause = doubled(s.failures, maxPauseGood)
		if h != nil { // the pauses get shorter again towards the token's end
			pause = min(pause, max(h.left(now)/2, firstPause))
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
	if h != nil {
		s.arm(max(pause, h.left(now)-h.due)) // Renew may have failed before the token fell due
	}

	if s.failures > 1 && now.Sub(s.warned) < warnEvery {
		return func(time.Duration) {}
	}
	s.warned = now
	failures := s.failures
	return func(time.Duration) {
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

// tick renews the current token if it is due and was used; one that has ended
// waits for a call.
func (s *Source) tick() {
	h := s.current.Load()
	if h == nil || !h.used.Load() {
		return
	}
	switch left := h.left(time.Now()); {
	case left > h.due: // the wall clock was set back
		h.renewing.Store(false)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.arm(left - h.due)
	case left > 0:
		h.renewing.Store(true)
		s.renew()
	}
}
