package refresh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/guard"
	"example.com/mosaic/internal/refresh"
)

// endpoint hands out tokens "t1", "t2", … and counts what is asked of it.
type endpoint struct {
	lifetime time.Duration
	wall     time.Duration // how far the wall clock's expiry lies from the lifetime
	latency  atomic.Int64  // of fetches from now on, a time.Duration
	fault    atomic.Value  // of every fetch from now on: a fault

	last    atomic.Value // when it was asked last, a time.Time
	fetches atomic.Int32
	single  atomic.Int32 // of them, those of one request
}

type fault struct{ error }

// fail has every fetch from now on fail with err, or succeed again.
func (e *endpoint) fail(err error) { e.fault.Store(fault{err}) }

func (e *endpoint) fetch(_ context.Context, attempts int) (*refresh.Token, error) {
	n := e.fetches.Add(1)
	if attempts == 1 {
		e.single.Add(1)
	}
	sent := time.Now()
	e.last.Store(sent)
	time.Sleep(time.Duration(e.latency.Load()))
	if f, _ := e.fault.Load().(fault); f.error != nil {
		return nil, f.error
	}
	return token(fmt.Sprint("t", n), sent, e.lifetime, e.wall), nil
}

func token(name string, sent time.Time, lifetime, wall time.Duration) *refresh.Token {
	return &refresh.Token{
		Token:    oauth2.Token{AccessToken: name, Expiry: sent.Round(0).Add(lifetime + wall)},
		Sent:     sent,
		Lifetime: lifetime,
	}
}

// failure is a refresh.Failure.
type failure struct {
	refused    bool
	retryAfter time.Duration
}

func (f failure) Error() string             { return "failed" }
func (f failure) Refused() bool             { return f.refused }
func (f failure) RetryAfter() time.Duration { return f.retryAfter }

var nowhere = slog.New(slog.DiscardHandler)

// want fails t unless the source hands out the named token at once, or, for "",
// an error at once.
func want(t *testing.T, s *refresh.Source, name string) {
	t.Helper()
	begun := time.Now()
	tok, err := s.Token(t.Context())
	switch took := time.Since(begun); {
	case took != 0:
		t.Errorf("a call waited for %s; want none to wait", took)
	case name == "" && err == nil:
		t.Errorf("got token %q; want an error", tok.AccessToken)
	case name != "" && err != nil:
		t.Errorf("got error %q; want token %q", err, name)
	case name != "" && tok.AccessToken != name:
		t.Errorf("got token %q; want %q", tok.AccessToken, name)
	}
}

func (e *endpoint) wantFetches(t *testing.T, n int32) {
	t.Helper()
	synctest.Wait()
	if got := e.fetches.Load(); got != n {
		t.Errorf("the endpoint was asked %d times; want %d", got, n)
	}
}

func TestAUsedTokenIsRenewedByTheTimerBetween3And2Thirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		e.latency.Store(int64(2 * time.Second))
		s := refresh.New(e.fetch, nowhere)
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(36*time.Minute - 3*time.Second)
		want(t, s, "t1")
		e.wantFetches(t, 1)
		time.Sleep(4*time.Minute + 4*time.Second)
		e.wantFetches(t, 2)
		want(t, s, "t2")
	})
}

func TestARenewalPointIsDrawnForEachToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		points := map[time.Duration]bool{}
		var mu sync.Mutex
		for range 200 {
			e := &endpoint{lifetime: time.Hour}
			begun := time.Now()
			s := refresh.New(func(ctx context.Context, attempts int) (*refresh.Token, error) {
				if e.fetches.Load() == 1 {
					mu.Lock()
					points[time.Since(begun)] = true
					mu.Unlock()
				}
				return e.fetch(ctx, attempts)
			}, nowhere)
			defer runtime.KeepAlive(s)
			want(t, s, "t1")
		}
		time.Sleep(41 * time.Minute)
		synctest.Wait()
		for point := range points {
			if point < 36*time.Minute || point > 40*time.Minute {
				t.Errorf("a token of an hour was renewed after %s; want 36 to 40 minutes", point)
			}
		}
		if len(points) < 190 {
			t.Errorf("200 tokens were renewed at %d different times", len(points))
		}
	})
}

func TestAnUnusedTokenIsRenewedByTheFirstCallThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
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

func TestTheClosingPartOfALifeCountsAsExpired(t *testing.T) {
	for _, tt := range []struct{ lifetime, margin time.Duration }{
		{time.Hour, 10 * time.Second},
		{100 * time.Second, 10 * time.Second},
		{50 * time.Second, 5 * time.Second},
		{time.Second, 100 * time.Millisecond},
	} {
		t.Run(tt.lifetime.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{lifetime: tt.lifetime}
				gate := make(chan struct{})
				s := refresh.New(func(ctx context.Context, attempts int) (*refresh.Token, error) {
					if e.fetches.Load() == 1 {
						<-gate // holds back the renewal ahead
					}
					return e.fetch(ctx, attempts)
				}, nowhere)
				want(t, s, "t1")
				time.Sleep(tt.lifetime - tt.margin - 1)
				want(t, s, "t1")
				time.Sleep(1 * time.Nanosecond)
				ctx, cancel := context.WithTimeout(t.Context(), 1)
				defer cancel()
				if tok, err := s.Token(ctx); err == nil {
					t.Errorf("%s before its end, %q was handed out; want a wait for the renewal", tt.margin, tok.AccessToken)
				}
				close(gate)
				synctest.Wait()
				want(t, s, "t2")
			})
		})
	}
}

func TestATokenEndsByWhicheverClockSaysSoFirst(t *testing.T) {
	for _, tt := range []struct {
		name string
		wall time.Duration
		ends time.Duration
	}{
		{"the wall clock was set forward", -20 * time.Minute, 40 * time.Minute},
		{"the wall clock was set back", 5 * time.Hour, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{lifetime: time.Hour, wall: tt.wall}
				s := refresh.New(e.fetch, nowhere)
				want(t, s, "t1")
				e.fail(errors.New("out of order"))
				time.Sleep(tt.ends - 1)
				want(t, s, "t1")
				time.Sleep(1 * time.Nanosecond)
				want(t, s, "")
			})
		})
	}
}

func TestWithAGoodTokenFailuresGoUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, slog.New(slog.NewTextHandler(&log, nil)))
		want(t, s, "t1")
		e.fail(errors.New("out of order"))
		time.Sleep(time.Hour - 1)
		want(t, s, "t1") // to its last instant
		failed := e.fetches.Load() - 1
		if failed < 20 || failed > 60 {
			t.Errorf("20 to 24 minutes of failures saw %d requests; want one a minute, more at either end", failed)
		}
		if got := e.single.Load(); got != failed {
			t.Errorf("%d of %d renewals were of one request; want all", got, failed)
		}
		synctest.Wait()
		if lines := strings.Count(log.String(), "\n"); lines < 10 || lines > 26 {
			t.Errorf("logged %d lines; want one a minute:\n%s", lines, log.String())
		}
		for _, part := range []string{"level=WARN", `error="out of order"`, "failures=1 ", "retry_in="} {
			if !strings.Contains(log.String(), part) {
				t.Errorf("no %q in the log:\n%s", part, log.String())
			}
		}
		e.fail(nil)
		time.Sleep(1 * time.Nanosecond)
		want(t, s, fmt.Sprint("t", failed+2)) // pauses of a good token do not count
	})
}

func TestTriesGetMoreFrequentTowardsATokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			e := &endpoint{lifetime: time.Hour}
			s := refresh.New(e.fetch, nowhere)
			want(t, s, "t1")
			end := time.Now().Add(time.Hour)
			e.fail(errors.New("out of order"))
			time.Sleep(time.Hour)
			synctest.Wait()
			if before := end.Sub(e.last.Load().(time.Time)); before > 2*time.Second {
				t.Errorf("the last try came %s before the token's end; want 2 s at most, for the endpoint may be well again", before)
			}
			runtime.KeepAlive(s)
		}
	})
}

func TestASecondOutageWithinAMinuteIsLoggedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		e := &endpoint{lifetime: 5 * time.Second}
		s := refresh.New(e.fetch, slog.New(slog.NewTextHandler(&log, nil)))
		for n := range 2 {
			e.fail(errors.New("out of order"))
			want(t, s, "")
			e.fail(nil)
			if _, err := s.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if got := strings.Count(log.String(), "level=WARN"); got != n+1 {
				t.Errorf("after %d outages there are %d warnings; want one for each", n+1, got)
			}
			time.Sleep(5 * time.Second) // t3 was not used, and has ended
		}
	})
}

func TestWithoutATokenFailuresAreSharedAndPaced(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		pauses []time.Duration // after the first, the second, … failure, less jitter
	}{
		{"transient", errors.New("out of order"), []time.Duration{0, 1e9, 2e9, 2e9, 2e9}},
		{"refused", failure{refused: true}, []time.Duration{0, 1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}},
		{"wrapped", fmt.Errorf("x: %w", failure{refused: true}), []time.Duration{0, 1e9, 2e9, 4e9}},
		{"Retry-After", failure{retryAfter: 7 * time.Second}, []time.Duration{7e9, 7e9}},
		{"a Retry-After of a day", failure{retryAfter: 24 * time.Hour}, []time.Duration{60e9, 60e9}},
		{"a negative Retry-After", failure{retryAfter: -time.Hour}, []time.Duration{0, 1e9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{lifetime: time.Hour}
				e.fail(tt.err)
				s := refresh.New(e.fetch, nowhere)
				for i, pause := range tt.pauses {
					want(t, s, "")
					e.wantFetches(t, int32(i+1))
					if wantSingle := int32(max(0, i-1)); e.single.Load() != wantSingle {
						t.Errorf("of %d fetches, %d were of one request; want %d", i+1, e.single.Load(), wantSingle)
					}
					if pause == 0 {
						continue
					}
					time.Sleep(pause * 3 / 4 * 99 / 100)
					want(t, s, "") // the last error, without a request
					e.wantFetches(t, int32(i+1))
					time.Sleep(pause*5/4 - pause*3/4*99/100)
				}
			})
		})
	}
}

func TestAfterASuccessPausesAreShortAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		for _, fetches := range []int32{0, 6} {
			e.fail(failure{refused: true})
			want(t, s, "")
			for _, pause := range []time.Duration{0, 1e9, 2e9, 4e9} {
				time.Sleep(pause * 5 / 4)
				want(t, s, "")
			}
			e.wantFetches(t, fetches+5)
			e.fail(nil)
			time.Sleep(10 * time.Second)
			name := fmt.Sprint("t", fetches+6)
			want(t, s, name)
			s.Invalidate(name)
		}
	})
}

func TestAJitteredPauseIsNotTheSameTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early := 0
		for range 100 {
			e := &endpoint{lifetime: time.Hour}
			e.fail(errors.New("out of order"))
			s := refresh.New(e.fetch, nowhere)
			want(t, s, "")
			want(t, s, "")
			time.Sleep(time.Second)
			want(t, s, "")
			early += int(e.fetches.Load() - 2)
		}
		if early < 20 || early > 80 {
			t.Errorf("%d of 100 sources tried again within a second; want about half", early)
		}
	})
}

func TestInvalidateDropsTheCurrentTokenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		e.latency.Store(int64(time.Second))
		s := refresh.New(e.fetch, nowhere)
		s.Invalidate("t1") // there is none yet
		var wg sync.WaitGroup
		get := func() *refresh.Token {
			tok, err := s.Token(t.Context())
			if err != nil {
				t.Error(err)
			}
			return tok
		}
		get()
		for range 50 {
			wg.Go(func() {
				s.Invalidate("t1")
				if tok := get(); tok.AccessToken != "t2" {
					t.Errorf("got %q after t1 was invalidated; want t2", tok.AccessToken)
				}
			})
		}
		wg.Wait()
		s.Invalidate("t1")
		want(t, s, "t2")
		e.wantFetches(t, 2)
		time.Sleep(10 * time.Hour) // neither does the dropped one's timer do anything
		e.wantFetches(t, 3)
	})
}

func TestARequestInFlightDoesNotBringADroppedTokenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fetches int
		s := refresh.New(func(context.Context, int) (*refresh.Token, error) {
			fetches++
			name := "same"
			if fetches > 2 {
				name = "other"
			}
			sent := time.Now()
			time.Sleep(10 * time.Second)
			return token(name, sent, time.Hour, 0), nil
		}, nowhere)
		tok, err := s.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantReplaced(t, s, tok, true)
		s.Invalidate("same")
		tok, err = s.Token(t.Context())
		if err != nil || tok.AccessToken != "other" || fetches != 3 {
			t.Errorf("got %v, %v after %d fetches; want the other token after 3", tok, err, fetches)
		}
	})
}

func TestADroppedSourceIsCollectedAndRenewsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		want(t, s, "t1")
		var collected atomic.Bool
		runtime.AddCleanup(s, func(*atomic.Bool) { collected.Store(true) }, &collected)
		synctest.Wait()
		s = nil
		for range 100 {
			runtime.GC()
			if collected.Load() {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if !collected.Load() {
			t.Error("the source was not collected")
		}
		time.Sleep(10 * time.Hour)
		e.wantFetches(t, 1)
	})
}

func TestNothingEscapesTheGoroutineOfARenewal(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fetch func()
		want  string // of the error
		log   string
	}{
		{"a panic", func() { panic("s3cr3t") }, "mosaic: token request panicked (its stack is in the log)", "TestNothingEscapesTheGoroutineOfARenewal"},
		{"runtime.Goexit", runtime.Goexit, "mosaic: token request ended its goroutine (runtime.Goexit)", "runtime.Goexit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				bad := true
				s := refresh.New(func(context.Context, int) (*refresh.Token, error) {
					if bad {
						tt.fetch()
					}
					return token("good", time.Now(), time.Hour, 0), nil
				}, slog.New(slog.NewTextHandler(&log, nil)))
				if _, err := s.Token(t.Context()); err == nil || err.Error() != tt.want {
					t.Errorf("got error %v; want %q", err, tt.want)
				}
				if !strings.Contains(log.String(), tt.log) || strings.Contains(log.String(), "s3cr3t") {
					t.Errorf("want %q in the log, and not the panic's value:\n%s", tt.log, log.String())
				}
				bad = false
				want(t, s, "good")
			})
		})
	}
}

// handler is a slog.Handler that does something.
type handler struct {
	slog.Handler
	handle func()
}

func (h handler) Handle(context.Context, slog.Record) error { h.handle(); return nil }

func TestALogHandlerMayDoAnything(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle func(s *refresh.Source)
	}{
		{"panic", func(*refresh.Source) { panic("log") }},
		{"end its goroutine", func(*refresh.Source) { runtime.Goexit() }},
		{"ask for a token", func(s *refresh.Source) { s.Token(context.Background()) }},
		{"drop the token", func(s *refresh.Source) { s.Invalidate("t1") }},
	} {
		for _, err := range []error{nil, errors.New("out of order")} {
			t.Run(fmt.Sprintf("%s, after %v", tt.name, err), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := &endpoint{lifetime: time.Hour}
					e.fail(err)
					var s *refresh.Source
					text := slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})
					s = refresh.New(e.fetch, slog.New(guard.Handler{Handler: handler{text, func() { tt.handle(s) }}}))
					if _, got := s.Token(t.Context()); got != err {
						t.Errorf("got error %v; want %v", got, err)
					}
					e.fail(nil)
					time.Sleep(time.Minute)
					if _, err := s.Token(t.Context()); err != nil {
						t.Errorf("a later call failed: %v", err)
					}
				})
			})
		}
	}
}

func TestAPanicIsLoggedThoughTheHandlerPanicsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := slog.NewTextHandler(io.Discard, nil)
		s := refresh.New(func(context.Context, int) (*refresh.Token, error) { panic("fetch") },
			slog.New(guard.Handler{Handler: handler{text, func() { panic("log") }}}))
		want(t, s, "")
	})
}

func TestACallersContextEndsItsWaitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		e.latency.Store(int64(5 * time.Second))
		s := refresh.New(e.fetch, nowhere)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Token(t.Context()); err != nil {
				t.Errorf("the patient caller got %q", err)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := s.Token(ctx)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("a deadline of 1 s ended the wait after %s", took)
		}
		if wantText := "mosaic: waiting for a token: context deadline exceeded"; !errors.Is(err, context.DeadlineExceeded) || err.Error() != wantText {
			t.Errorf("got %v; want %q", err, wantText)
		}
		wg.Wait()
		e.wantFetches(t, 1)
		if tok, err := s.Token(ctx); err != nil {
			t.Errorf("got %v, %v; want a token that is there, whatever the context", tok, err)
		}
	})
}

func TestACallThatHasEndedAlreadyAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want the context's error", err)
		}
		e.wantFetches(t, 0)

		e.fail(failure{})
		want(t, s, "")
		want(t, s, "")
		if _, err := s.Token(ctx); err != (failure{}) {
			t.Errorf("in a pause, where nothing is waited for: got %v; want the last error", err)
		}
	})
}

// wantReplaced calls Replace with a pause of a minute, and fails t unless a
// successor is coming as wanted.
func wantReplaced(t *testing.T, s *refresh.Source, old *refresh.Token, want bool) (done <-chan struct{}) {
	t.Helper()
	done, coming := s.Replace(old, time.Minute)
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

func TestReplaceKeepsTheOldTokenInService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		tok := old(t, s)
		e.latency.Store(int64(time.Second))
		done := wantReplaced(t, s, tok, true)
		want(t, s, "t1")
		if wantReplaced(t, s, tok, true) != done {
			t.Error("a second caller did not get the request in flight")
		}
		<-done
		want(t, s, "t2")
		select {
		case <-wantReplaced(t, s, tok, true):
		default:
			t.Error("for a token long replaced there is a wait")
		}
		e.wantFetches(t, 2)
	})
}

func TestReplaceMindsTheTokensAgeAndThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		want(t, s, "t1")
		tok, _ := s.Token(t.Context())
		time.Sleep(10*time.Second - 1)
		wantReplaced(t, s, tok, false)
		time.Sleep(1 * time.Nanosecond)
		<-wantReplaced(t, s, tok, true)
		tok = old(t, s)
		time.Sleep(50*time.Second - 1)
		wantReplaced(t, s, tok, false)
		if _, coming := s.Replace(tok, 10*time.Second); !coming {
			t.Error("after a shorter pause no successor is coming")
		}
		e.wantFetches(t, 3)
	})
}

func TestAReplaceThatFailsCostsOneRequestAndNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		tok := old(t, s)
		e.fail(failure{retryAfter: time.Minute})
		<-wantReplaced(t, s, tok, true)
		time.Sleep(time.Minute - 1)
		if _, coming := s.Replace(tok, 0); coming {
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

func TestAReplaceThatFailsDoesNotMakeADueTokenDisregardARetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: 10 * time.Minute} // due after 6 minutes to 6:40
		s := refresh.New(e.fetch, nowhere)
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
}

func TestARetryAfterIsMindedBeyondTheTokensEnd(t *testing.T) {
	for _, tt := range []struct{ retryAfter, want time.Duration }{
		{55 * time.Second, 55 * time.Second},
		{time.Minute, time.Minute},
		{24 * time.Hour, time.Minute},
	} {
		t.Run(tt.retryAfter.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{lifetime: 100 * time.Second}
				s := refresh.New(e.fetch, nowhere)
				tok := old(t, s)
				time.Sleep(40 * time.Second)
				e.fail(failure{retryAfter: tt.retryAfter})
				<-wantReplaced(t, s, tok, true)
				e.fail(nil)
				time.Sleep(50*time.Second - 1)
				want(t, s, "t1")
				time.Sleep(1 * time.Nanosecond)
				want(t, s, "") // its end
				time.Sleep(tt.want - 50*time.Second - 1)
				want(t, s, "")
				e.wantFetches(t, 2)
				time.Sleep(1 * time.Nanosecond)
				want(t, s, "t3")
			})
		})
	}
}

func TestAWallClockThatIsSetForwardAndBackStopsNoRenewal(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprint("set forward again: ", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{lifetime: time.Hour}
				s := refresh.New(e.fetch, nowhere)
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
				e.fail(errors.New("out of order"))
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
		})
	}
}

func TestASuccessorCountsAsUsedOnlyOnceItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{lifetime: time.Hour}
		s := refresh.New(e.fetch, nowhere)
		<-wantReplaced(t, s, old(t, s), true)
		want(t, s, "t2")
		time.Sleep(41 * time.Minute)
		e.wantFetches(t, 3) // t2 was taken
		time.Sleep(41 * time.Minute)
		e.wantFetches(t, 3) // t3 was not
	})
}
