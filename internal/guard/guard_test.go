package guard_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/guard"
)

var nowhere = slog.New(slog.DiscardHandler)

// call calls f within five seconds.
func call(t *testing.T, calls guard.Calls, f func() (int, error)) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	begun := time.Now()
	_, err = guard.Call(ctx, calls, "f", nowhere, f)
	return time.Since(begun), err
}

func TestFourCallsRunAtATimeAndOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := guard.NewCalls(guard.AtOnce)
		for range 2 {
			var running atomic.Int32
			begun := time.Now()
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() {
					if took, err := call(t, calls, func() (int, error) {
						if n := running.Add(1); n > 4 {
							t.Errorf("%d run at a time; want 4", n)
						}
						time.Sleep(450 * time.Millisecond)
						running.Add(-1)
						return 0, nil
					}); err != nil {
						t.Errorf("after %s: %v", took, err)
					}
				})
			}
			synctest.Wait()
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := guard.Call(short, calls, "f", nowhere, func() (int, error) { return 0, nil }); !errors.Is(err, guard.ErrLate) || time.Since(begun) != time.Second {
				t.Errorf("beside four that run: got %v after %s; want an error when the context ends", err, time.Since(begun))
			}
			wg.Wait()
			if took := time.Since(begun); took != 4500*time.Millisecond {
				t.Errorf("40 took %s; want 4.5s", took)
			}
		}
	})
}

func TestAHandlerKeepsLevelsAndAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log kit.Log
		l := slog.New(guard.Handler{To: log.Logger(slog.LevelWarn).WithGroup("g").Handler()}).With("a", 1).With("b", 2)
		l.Info("not this")
		l.Warn("this", "c", 3)
		synctest.Wait()
		if got := log.String(); !strings.HasSuffix(got, "level=WARN msg=this g.a=1 g.b=2 g.c=3\n") || strings.Contains(got, "not") {
			t.Errorf("got %q", got)
		}
	})
}
