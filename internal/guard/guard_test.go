package guard_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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

func TestACallBringsAResultOrAnError(t *testing.T) {
	locked := errors.New("locked")
	for _, tt := range []struct {
		name string
		f    func() (string, error)
		want string // of the error
		is   error  // that errors.Is finds
	}{
		{"a result", func() (string, error) { return "signed", nil }, "", nil},
		{"an error", func() (string, error) { return "", locked }, "locked", locked},
		{"a panic", func() (string, error) { panic("a key") }, "the key panicked (its stack is in the log)", nil},
		{"Goexit", func() (string, error) { runtime.Goexit(); return "", nil }, "the key ended its goroutine (runtime.Goexit)", nil},
		{"too late", func() (string, error) { time.Sleep(time.Minute); return "signed", nil }, "the key did not return in time", guard.ErrLate},
	} {
		kit.Run(t, tt.name, func(t *testing.T) {
			defer time.Sleep(time.Minute)
			var log kit.Log
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := guard.Call(ctx, guard.NewCalls(guard.AtOnce), "the key", log.Logger(slog.LevelInfo), tt.f)
			if text := fmt.Sprint(err); tt.want == "" && (err != nil || got != "signed") || tt.want != "" && (text != tt.want || got != "" || !errors.Is(err, tt.is) && tt.is != nil) {
				t.Errorf("got %q and error %v; want error %q", got, err, tt.want)
			}
			synctest.Wait()
			if stack := strings.Contains(log.String(), "guard_test.go"); stack != (tt.name == "a panic") || strings.Contains(log.String(), "a key") {
				t.Errorf("the stack is in the log: %t; want it after a panic, without the panic's value", stack)
			}
		})
	}
}

// call calls f within five seconds.
func call(t *testing.T, calls *guard.Calls, f func() (int, error)) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	begun := time.Now()
	_, err = guard.Call(ctx, calls, "f", nowhere, f)
	return time.Since(begun), err
}

func TestFourCallsRunAtATimeAndOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := guard.NewCalls(guard.AtOnce)
		for range 20 {
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
			time.Sleep(time.Hour) // then the newest call is an old one
		}
	})
}

func TestACallThatHangsCostsOneGoroutineAndEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := guard.NewCalls(guard.AtOnce)
		mend := make(chan struct{})
		fine := func() (int, error) { return 1, nil }
		for n := range 4 {
			if took, err := call(t, calls, func() (int, error) { <-mend; return 0, nil }); !errors.Is(err, guard.ErrLate) || took != 5*time.Second {
				t.Errorf("the call that hangs: got %v after %s", err, took)
			}
			if took, err := call(t, calls, fine); took != 0 || errors.Is(err, guard.ErrLate) != (n == 3) {
				t.Errorf("beside %d that hang: got %v after %s; want a result, or an error beside four, at once", n+1, err, took)
			}
		}
		close(mend)
		synctest.Wait()
		if took, err := call(t, calls, fine); err != nil || took != 0 {
			t.Errorf("when they have returned: got %v after %s; want a result at once", err, took)
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
