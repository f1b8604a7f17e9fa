package refresh

import (
	"errors"
	"math/rand/v2"
	"time"
)

// A Failure is an error from a fetch, with advice on the next fetch.
type Failure interface {
	error
	Refused() bool             // the next request will be refused, too
	RetryAfter() time.Duration // the wait that the endpoint asked for; zero if it asked for none
}

const (
	firstPause = time.Second

	// While there is a good token nobody waits, so pauses may grow to a minute: a one-hour token
	// leaves 20 minutes for retries. Without a good token every call fails, so pauses are short. They
	// may be longer after a refusal, because somebody has to act first.
	maxPauseGood      = time.Minute
	maxPauseTransient = 2 * time.Second
	maxPauseRefused   = 30 * time.Second

	maxRetryAfter = time.Minute // a longer wait would outlast most outages

	warnEvery = time.Minute // between the warnings of one outage
)

// An outage describes the requests that have failed in a row. It is zero if the last request
// succeeded.
type outage struct {
	failures int
	dead     int           // failed requests that began without a good token
	since    time.Time     // when the first failure ended
	warned   time.Time     // when a failure was last logged; zero if none was
	err      error         // from the last failure
	pause    time.Duration // the last pause, before jitter and without a Retry-After
	renewAt  time.Time     // until then, no renewal begins
	callAt   time.Time     // until then, calls without a good token get err
}

// failed returns the outage after a further failure. If the request was a renewal, it began with a
// good token, and left is the rest of that token's life.
func (o outage) failed(err error, renewal bool, left time.Duration, now time.Time) outage {
	var refused bool
	var retryAfter time.Duration
	if f := Failure(nil); errors.As(err, &f) {
		refused, retryAfter = f.Refused(), min(f.RetryAfter(), maxRetryAfter)
	}
	o.err = err
	if o.failures++; o.failures == 1 {
		o.since = now
	}
	if !renewal {
		o.dead++
	}
	switch {
	case renewal:
		o.pause = min(longer(o.pause, maxPauseGood), max(left/2, firstPause))
	case o.dead == 1: // the next call tries again at once
		o.pause = 0
	case refused:
		o.pause = longer(o.pause, maxPauseRefused)
	default:
		o.pause = longer(o.pause, maxPauseTransient)
	}
	jittered := o.pause*3/4 + rand.N(o.pause/2+1)
	o.renewAt = now.Add(max(jittered, retryAfter))
	o.callAt = o.renewAt
	if renewal { // once the token has expired, only a Retry-After delays the next request
		o.callAt = now.Add(retryAfter)
	}
	return o
}

// longer returns twice the last pause, but at least firstPause and at most limit.
func longer(last, limit time.Duration) time.Duration {
	return min(max(2*last, firstPause), limit)
}

// attrs returns the attributes to log when the outage ends, or nil if there was no outage.
func (o outage) attrs(now time.Time) []any {
	if o.failures == 0 {
		return nil
	}
	return []any{"failures", o.failures, "failing_for", now.Sub(o.since).Round(time.Millisecond)}
}
