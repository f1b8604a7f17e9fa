package refresh

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// failure is a Failure.
type failure struct {
	refused    bool
	retryAfter time.Duration
}

func (f failure) Error() string             { return "failed" }
func (f failure) Refused() bool             { return f.refused }
func (f failure) RetryAfter() time.Duration { return f.retryAfter }

func TestThePauseFollowsFromTheLastPauseAndTheKindOfFailure(t *testing.T) {
	const s = time.Second
	type step struct {
		err    error
		left   time.Duration   // of the good token; 0: there is none
		pauses []time.Duration // the pauses of that many failures, before jitter
	}
	transient, refused := errors.New("out of order"), failure{refused: true}
	for name, steps := range map[string][]step{
		"transient":              {{transient, 0, []time.Duration{0, 1 * s, 2 * s, 2 * s}}},
		"refused":                {{refused, 0, []time.Duration{0, 1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}}},
		"refused, and wrapped":   {{fmt.Errorf("x: %w", refused), 0, []time.Duration{0, 1 * s, 2 * s, 4 * s}}},
		"transient then refused": {{transient, 0, []time.Duration{0, 1 * s, 2 * s, 2 * s}}, {refused, 0, []time.Duration{4 * s, 8 * s}}},
		"refused then transient": {{refused, 0, []time.Duration{0, 1 * s, 2 * s, 4 * s}}, {transient, 0, []time.Duration{2 * s}}, {refused, 0, []time.Duration{4 * s}}},
		"renewals": {
			{refused, time.Hour, []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}},
			{transient, 20 * s, []time.Duration{10 * s}},
			{transient, 5 * s, []time.Duration{2500 * time.Millisecond}},
			{transient, 1, []time.Duration{1 * s}},
			{transient, 0, []time.Duration{0, 1 * s, 2 * s, 2 * s}},
		},
		"a renewal that ends after its token": {{transient, -time.Hour, []time.Duration{1 * s, 1 * s}}, {refused, 0, []time.Duration{0, 1 * s, 2 * s, 4 * s}}},
	} {
		var o outage
		begun := time.Now()
		now := begun
		n := 0
		for _, step := range steps {
			for _, want := range step.pauses {
				now, n = now.Add(time.Hour), n+1
				o = o.failed(step.err, step.left != 0, step.left, now)
				wantCall := o.renewAt
				if step.left != 0 {
					wantCall = now
				}
				pause := o.renewAt.Sub(now)
				if o.pause != want || pause < want*3/4 || pause > want*5/4 || !o.callAt.Equal(wantCall) {
					t.Errorf("%s: after failure %d, the pause is %s, renewals are paused for %s, and calls for %s; want %s, with jitter",
						name, n, o.pause, pause, o.callAt.Sub(now), want)
				}
				if o.failures != n || o.err != step.err || !o.since.Equal(begun.Add(time.Hour)) {
					t.Errorf("%s: after failure %d of %v, got %+v", name, n, step.err, o)
				}
			}
		}
	}
}

func TestPausesHaveJitter(t *testing.T) {
	early := 0
	for range 1000 {
		now := time.Now()
		if (outage{}).failed(errors.New("out of order"), true, time.Hour, now).renewAt.Before(now.Add(time.Second)) {
			early++
		}
	}
	if early < 400 || early > 600 {
		t.Errorf("%d of 1000 pauses of a second are shorter than that; want about half", early)
	}
}
