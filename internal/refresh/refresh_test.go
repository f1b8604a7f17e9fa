package refresh_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/refresh"
)

// An endpoint hands out tokens "t1", "t2", … and counts its requests.
type endpoint struct {
	lifetime time.Duration
	wall     time.Duration // by which the wall clock's expiry differs from the lifetime
	latency  atomic.Int64  // of fetches from now on, a time.Duration
	fault    atomic.Value  // of every fetch from now on: a fault

	last    atomic.Value // the time of the last fetch
	fetches atomic.Int32
	single  atomic.Int32 // of them, those of one attempt
}

type fault struct{ error }

// fail makes every fetch from now on fail with err, or succeed again.
func (e *endpoint) fail(err error) { e.fault.Store(fault{err}) }

func (e *endpoint) fetch(ctx context.Context, attempts int) (*refresh.Token, error) {
	n := e.fetches.Add(1)
	if attempts == 1 {
		e.single.Add(1)
	}
	sent := time.Now()
	e.last.Store(sent)
	select {
	case <-time.After(time.Duration(e.latency.Load())):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f, _ := e.fault.Load().(fault); f.error != nil {
		return nil, f.error
	}
	return token(fmt.Sprint("t", n), sent, e.lifetime, e.wall), nil
}

func token(name string, sent time.Time, lifetime, wall time.Duration) *refresh.Token {
	return &refresh.Token{Token: oauth2.Token{AccessToken: name, Expiry: sent.Round(0).Add(lifetime + wall)}, Sent: sent, Lifetime: lifetime}
}

// failure is a refresh.Failure.
type failure struct {
	refused    bool
	retryAfter time.Duration
}

func (f failure) Error() string             { return "failed" }
func (f failure) Refused() bool             { return f.refused }
func (f failure) RetryAfter() time.Duration { return f.retryAfter }

var (
	errBroken = errors.New("out of order")
	nowhere   = slog.New(slog.DiscardHandler)
)

// bubble runs test on a clock of its own, with a source of tokens that live so long.
func bubble(t *testing.T, lifetime time.Duration, test func(t *testing.T, e *endpoint, s *refresh.Source)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: lifetime}
		test(t, e, refresh.New(e.fetch, nowhere))
	})
}

// want fails t unless the source hands out the named token at once or, for "", an error at once.
func want(t *testing.T, s *refresh.Source, name string) {
	t.Helper()
	begun := time.Now()
	tok, err := s.Token(t.Context())
	if took := time.Since(begun); took != 0 || (err == nil) != (name != "") || err == nil && tok.AccessToken != name {
		t.Errorf("got %v, error %v after %s; want %q at once", tok, err, took, name)
	}
}

func (e *endpoint) wantFetches(t *testing.T, n int32) {
	t.Helper()
	synctest.Wait()
	if got := e.fetches.Load(); got != n {
		t.Errorf("the endpoint got %d requests; want %d", got, n)
	}
}

func TestAUsedTokenIsRenewedByTheTimerBetween3FifthsAnd2Thirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		points := map[time.Time]bool{}
		begun := time.Now()
		sources := map[*refresh.Source]*endpoint{}
		for range 200 {
			e := &endpoint{lifetime: time.Hour}
			s := refresh.New(e.fetch, nowhere)
			want(t, s, "t1")
			e.latency.Store(int64(2 * time.Second))
			sources[s] = e
		}
		time.Sleep(40*time.Minute + 2*time.Second)
		for s, e := range sources {
			e.wantFetches(t, 2)
			want(t, s, "t2")
			point := e.last.Load().(time.Time)
			if after := point.Sub(begun); after < 36*time.Minute || after > 40*time.Minute {
				t.Errorf("a token of an hour was renewed after %s; want 36 to 40 minutes", after)
			}
			points[point] = true
		}
		if len(points) < 190 {
			t.Errorf("200 tokens were renewed at %d different times", len(points))
		}
	})
}

func TestAnUnusedTokenIsRenewedByTheFirstCallThatComesLater(t *testing.T) {
	bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
		want(t, s, "t1")
		time.Sleep(41 * time.Minute) // t2 is there, and unused
		e.wantFetches(t, 2)
		time.Sleep(50 * time.Minute)
		e.wantFetches(t, 2)
		e.latency.Store(int64(2 * time.Second))
		want(t, s, "t2")
		want(t, s, "t2")
		e.wantFetches(t, 3)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want(t, s, "t3")
	})
}

func TestTheLastPartOfALifeCountsAsExpired(t *testing.T) {
	for lifetime, margin := range map[time.Duration]time.Duration{
		time.Hour: 10 * time.Second, 100 * time.Second: 10 * time.Second, 50 * time.Second: 5 * time.Second, time.Second: 100 * time.Millisecond,
	} {
		bubble(t, lifetime, func(t *testing.T, e *endpoint, s *refresh.Source) {
			want(t, s, "t1")
			e.latency.Store(int64(lifetime)) // of the renewal
			time.Sleep(lifetime - margin - 1)
			want(t, s, "t1")
			time.Sleep(1 * time.Nanosecond)
			ctx, cancel := context.WithTimeout(t.Context(), 1)
			defer cancel()
			if tok, err := s.Token(ctx); err == nil {
				t.Errorf("%s before its end, %q was handed out; want a wait for the renewal", margin, tok.AccessToken)
			}
			time.Sleep(lifetime)
		})
	}
}

func TestATokenEndsByWhicheverClockSaysSoFirst(t *testing.T) {
	for _, tt := range []struct {
		name       string
		wall, ends time.Duration
	}{
		{"the wall clock was set forward", -20 * time.Minute, 40 * time.Minute},
		{"the wall clock was set back", 5 * time.Hour, time.Hour},
	} {
		bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
			t.Log(tt.name)
			e.wall = tt.wall
			want(t, s, "t1")
			e.fail(errBroken)
			time.Sleep(tt.ends - 1)
			want(t, s, "t1")
			time.Sleep(1 * time.Nanosecond)
			want(t, s, "")
		})
	}
}

func TestWithAGoodTokenFailuresGoUnnoticed(t *testing.T) {
	for range 10 {
		bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
			want(t, s, "t1")
			end := time.Now().Add(time.Hour)
			e.fail(errBroken)
			time.Sleep(time.Hour - 1)
			want(t, s, "t1") // to its last instant
			failed := e.fetches.Load() - 1
			if failed < 20 || failed > 60 || e.single.Load() != failed {
				t.Errorf("20 to 24 minutes of failures saw %d renewals, %d of one attempt; want one a minute, more at either end, each of one attempt", failed, e.single.Load())
			}
			if before := end.Sub(e.last.Load().(time.Time)); before > 2*time.Second {
				t.Errorf("the last try came %s before the token's end; want 2 s at most, for the endpoint may have recovered", before)
			}
			e.fail(nil)
			time.Sleep(1 * time.Nanosecond)
			want(t, s, fmt.Sprint("t", failed+2)) // pauses of a good token do not count
		})
	}
}

func TestWithoutATokenFailuresAreSharedAndPaced(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		pauses []time.Duration // after the first, the second, … failure, less jitter
	}{
		{"transient", errBroken, []time.Duration{0, 1e9, 2e9, 2e9, 2e9}},
		{"refused", failure{refused: true}, []time.Duration{0, 1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}},
		{"wrapped", fmt.Errorf("x: %w", failure{refused: true}), []time.Duration{0, 1e9, 2e9, 4e9}},
		{"Retry-After", failure{retryAfter: 7 * time.Second}, []time.Duration{7e9, 7e9}},
		{"a Retry-After of a day", failure{retryAfter: 24 * time.Hour}, []time.Duration{60e9, 60e9}},
		{"a negative Retry-After", failure{retryAfter: -time.Hour}, []time.Duration{0, 1e9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
				for round := range int32(2) { // after a success the pauses are short again
					e.fail(tt.err)
					before, single := e.fetches.Load(), e.single.Load()
					for i, pause := range tt.pauses {
						want(t, s, "")
						e.wantFetches(t, before+int32(i+1))
						if got := e.single.Load() - single; got != int32(max(0, i-1)) {
							t.Errorf("of %d fetches, %d were of one attempt; want all but two", i+1, got)
						}
						if pause > 0 {
							time.Sleep(pause * 3 / 4 * 99 / 100)
							want(t, s, "") // the last error, without a request
							e.wantFetches(t, before+int32(i+1))
							time.Sleep(pause*5/4 - pause*3/4*99/100)
						}
					}
					e.fail(nil)
					name := fmt.Sprint("t", int32(len(tt.pauses)+1)*(round+1))
					want(t, s, name)
					s.Invalidate(name)
				}
			})
		})
	}
}

func TestACallWithAnEndedContextMakesNoRequest(t *testing.T) {
	bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Token(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want the context's error", err)
		}
		e.wantFetches(t, 0)
		want(t, s, "t1")
		if _, err := s.Token(ended); err != nil {
			t.Errorf("got %v; want the token, whatever the context", err)
		}
		s.Invalidate("t1")
		e.fail(failure{})
		want(t, s, "")
		want(t, s, "")
		if _, err := s.Token(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("in a pause: got %v; want the context's error", err)
		}
	})
}

// wantReplaced calls Replace, and fails t unless a successor is coming as
// wanted.
func wantReplaced(t *testing.T, s *refresh.Source, old *refresh.Token, want bool) (done <-chan struct{}) {
	t.Helper()
	done, coming := s.Replace(old)
	if coming != want {
		t.Errorf("at %s, a successor is coming: got %t; want %t", time.Now().Format(time.TimeOnly), coming, want)
	}
	return done
}

// old returns the current token, at the age from which it can be replaced.
func old(t *testing.T, s *refresh.Source) *refresh.Token {
	t.Helper()
	tok, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10*time.Second - time.Since(tok.Sent))
	return tok
}

func TestAReplaceThatFailsCostsOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log kit.Log
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, log.Logger(slog.LevelWarn))
		tok := old(t, s)
		e.fail(failure{retryAfter: time.Minute})
		<-wantReplaced(t, s, tok, true)
		if !regexp.MustCompile(`retry_in=3[5-9]m`).MatchString(log.String()) {
			t.Errorf("got %q; want it to tell that the next try comes when the token is due", log.String())
		}
		time.Sleep(time.Minute - 1)
		if _, coming := s.Replace(tok); coming {
			t.Error("another request began in the pause after a failure")
		}
		time.Sleep(29 * time.Minute)
		want(t, s, "t1")
		e.wantFetches(t, 2)
		e.fail(nil)
		time.Sleep(11 * time.Minute)
		want(t, s, "t3") // renewed when it was due
	})
}

func TestARenewalBegunByTheFirstUseOfATokenIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log kit.Log
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, log.Logger(slog.LevelWarn))
		want(t, s, "t1")
		time.Sleep(45 * time.Minute)
		e.wantFetches(t, 2)
		time.Sleep(time.Until(e.last.Load().(time.Time).Add(time.Hour - 8*time.Second)))
		e.fail(failure{})
		e.latency.Store(int64(time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want the end of the wait", err)
		}
		time.Sleep(time.Second / 2)
		e.latency.Store(0)
		if synctest.Wait(); !strings.Contains(log.String(), "retry_in=") {
			t.Errorf("got %q; want it to tell when the source tries again", log.String())
		}
		time.Sleep(1500 * time.Millisecond)
		e.wantFetches(t, 4)
	})
}

func TestARenewalThatHangsUntilTheTokensEndIsLoggedAsSuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log kit.Log
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, log.Logger(slog.LevelWarn))
		want(t, s, "t1")
		e.fail(failure{})
		time.Sleep(45 * time.Minute)
		e.latency.Store(int64(time.Hour))
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "without a reply at the token's end") || strings.Contains(text, "deadline exceeded") {
			t.Errorf("got %q; want it to name the token's end, and no context", text)
		}
	})
}

func TestARetryAfterIsMindedWhenTheTokenBecomesDueAndBeyondItsEnd(t *testing.T) {
	bubble(t, 10*time.Minute, func(t *testing.T, e *endpoint, s *refresh.Source) { // due after 6 minutes to 6:40
		tok := old(t, s)
		time.Sleep(6*time.Minute - 10*time.Second - 1)
		e.fail(failure{retryAfter: time.Minute})
		<-wantReplaced(t, s, tok, true)
		e.fail(nil)
		for range 60 {
			want(t, s, "t1")
			e.wantFetches(t, 2)
			time.Sleep(time.Second)
		}
		e.wantFetches(t, 3) // by the timer
		want(t, s, "t3")
	})
	for retryAfter, pause := range map[time.Duration]time.Duration{55 * time.Second: 55 * time.Second, time.Minute: time.Minute, 24 * time.Hour: time.Minute} {
		bubble(t, 100*time.Second, func(t *testing.T, e *endpoint, s *refresh.Source) {
			tok := old(t, s)
			time.Sleep(40 * time.Second)
			e.fail(failure{retryAfter: retryAfter})
			<-wantReplaced(t, s, tok, true)
			e.fail(nil)
			time.Sleep(50*time.Second - 1)
			want(t, s, "t1")
			time.Sleep(1 * time.Nanosecond)
			want(t, s, "") // its end
			time.Sleep(pause - 50*time.Second - 1)
			want(t, s, "")
			e.wantFetches(t, 2)
			time.Sleep(1 * time.Nanosecond)
			want(t, s, "t3")
		})
	}
}

func TestAWallClockThatIsSetForwardAndBackStopsNoRenewal(t *testing.T) {
	for _, again := range []bool{false, true} {
		bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
			want(t, s, "t1")
			tok, _ := s.Token(t.Context())
			time.Sleep(10 * time.Minute)

			end, early := tok.Expiry, tok.Expiry.Add(-45*time.Minute)
			set := func(expiry time.Time) { // as if now were another time
				synctest.Wait()
				tok.Expiry = expiry
				<-time.After(1) // the race detector takes it for the cause of later timers
			}
			set(early)
			e.fail(errBroken)
			want(t, s, "t1")
			e.wantFetches(t, 2)
			set(end)
			e.fail(nil)
			time.Sleep(2 * time.Second) // over the pause

			if again {
				set(early)
				want(t, s, "t1")
				synctest.Wait()
				want(t, s, "t3")
				return
			}
			time.Sleep(26*time.Minute - 3*time.Second)
			e.wantFetches(t, 2)
			time.Sleep(4*time.Minute + 2*time.Second)
			e.wantFetches(t, 3)
			want(t, s, "t3")
		})
	}
}

func TestASuccessorCountsAsUsedOnlyOnceItIsTaken(t *testing.T) {
	bubble(t, time.Hour, func(t *testing.T, e *endpoint, s *refresh.Source) {
		<-wantReplaced(t, s, old(t, s), true)
		want(t, s, "t2")
		time.Sleep(41 * time.Minute)
		e.wantFetches(t, 3) // t2 was taken
		time.Sleep(41 * time.Minute)
		e.wantFetches(t, 3) // t3 was not
	})
}
