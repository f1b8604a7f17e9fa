package guard_test

import (
	"context"
	"errors"
	"io"
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
		name   string
		f      func() (string, error)
		want   string // of the error
		late   bool
		logged bool
	}{
		{"a result", func() (string, error) { return "signed", nil }, "", false, false},
		{"an error", func() (string, error) { return "", locked }, "locked", false, false},
		{"a panic", func() (string, error) { panic("a key") }, "the key panicked (its stack is in the log)", false, true},
		{"Goexit", func() (string, error) { runtime.Goexit(); return "", nil }, "the key ended its goroutine (runtime.Goexit)", false, false},
		{"too late", func() (string, error) { time.Sleep(time.Minute); return "signed", nil }, "the key did not return in time", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log kit.Log
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				got, err := guard.Call(ctx, guard.NewCalls(), "the key", log.Logger(slog.LevelInfo), tt.f)
				switch {
				case tt.want == "" && (err != nil || got != "signed"):
					t.Errorf("got %q and error %v; want the result", got, err)
				case tt.want != "" && (err == nil || err.Error() != tt.want || got != ""):
					t.Errorf("got %q and error %v; want error %q", got, err, tt.want)
				}
				if got := errors.Is(err, guard.ErrLate); got != tt.late {
					t.Errorf("got late: %t; want %t", got, tt.late)
				}
				time.Sleep(time.Minute)
				if got := strings.Contains(log.String(), "guard_test.go"); got != tt.logged || strings.Contains(log.String(), "a key") {
					t.Errorf("the stack, and not the panic's value, is in the log: %t; want %t", got, tt.logged)
				}
			})
		})
	}
}

func TestFourCallsRunAtATimeAndOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := guard.NewCalls()
		var running, most atomic.Int32
		begun := time.Now()
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				_, err := guard.Call(t.Context(), calls, "f", nowhere, func() (int, error) {
					most.Store(max(most.Load(), running.Add(1)))
					time.Sleep(time.Second)
					running.Add(-1)
					return 0, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); most.Load() != 4 || took != 3*time.Second {
			t.Errorf("%d ran at a time, and 12 took %s; want 4, and 3s", most.Load(), took)
		}
	})
}

func TestACallThatHangsCostsOneGoroutineAndEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := guard.NewCalls()
		mend := make(chan struct{})
		hang := func() (int, error) { <-mend; return 0, nil }
		fine := func() (int, error) { return 1, nil }
		call := func(f func() (int, error)) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			begun := time.Now()
			_, err := guard.Call(ctx, calls, "f", nowhere, f)
			return time.Since(begun), err
		}
		for n := range 4 {
			if took, err := call(hang); !errors.Is(err, guard.ErrLate) || took != 5*time.Second {
				t.Errorf("the call that hangs: got %v after %s", err, took)
			}
			if took, err := call(fine); n < 3 && (err != nil || took != 0) {
				t.Errorf("beside %d that hang: got %v after %s; want a result at once", n+1, err, took)
			} else if n == 3 && (!errors.Is(err, guard.ErrLate) || took != 0) {
				t.Errorf("beside four that hang: got %v after %s; want an error at once", err, took)
			}
		}
		close(mend)
		synctest.Wait()
		if took, err := call(fine); err != nil || took != 0 {
			t.Errorf("when they have returned: got %v after %s; want a result at once", err, took)
		}
	})
}

func TestACallBesideFourYoungOnesWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := guard.NewCalls()
		for range 4 {
			go guard.Call(t.Context(), calls, "f", nowhere, func() (int, error) { time.Sleep(4 * time.Second); return 0, nil })
		}
		time.Sleep(time.Second)
		begun := time.Now()
		if _, err := guard.Call(t.Context(), calls, "f", nowhere, func() (int, error) { return 0, nil }); err != nil || time.Since(begun) != 3*time.Second {
			t.Errorf("got %v after %s; want a result after 3s", err, time.Since(begun))
		}
	})
}

// handler is a slog.Handler that does something.
type handler struct {
	slog.Handler
	handle func()
}

func (h handler) Handle(context.Context, slog.Record) error { h.handle(); return nil }

func TestALogHandlerMayDoAnything(t *testing.T) {
	hang := make(chan struct{})
	for name, handle := range map[string]func(){
		"panic": func() { panic("log") }, "Goexit": runtime.Goexit, "hang": func() { <-hang },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hang = make(chan struct{})
				defer func() { close(hang) }()
				log := slog.New(guard.Handler{Handler: handler{slog.NewTextHandler(io.Discard, nil), handle}})
				begun := time.Now()
				log.Info("message")
				_, err := guard.Call(t.Context(), guard.NewCalls(), "f", log, func() (int, error) { panic("f") })
				if err == nil || time.Since(begun) != 0 {
					t.Errorf("got %v after %s; want an error at once", err, time.Since(begun))
				}
			})
		})
	}
}

func TestAHandlerKeepsLevelsAttributesAndGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log kit.Log
		l := slog.New(guard.Handler{Handler: log.Logger(slog.LevelWarn).Handler()}).With("a", 1).WithGroup("g")
		l.Info("not this")
		l.Warn("this", "b", 2)
		synctest.Wait()
		if got := log.String(); !strings.HasSuffix(got, "level=WARN msg=this a=1 g.b=2\n") || strings.Contains(got, "not") {
			t.Errorf("got %q", got)
		}
	})
}
