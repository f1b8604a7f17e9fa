// Package guard calls code that the user supplies, such as signers, callbacks and log handlers. Such
// code may hang, panic, or end its goroutine.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
)

// AtOnce is the usual limit on concurrent calls to a signer or callback. Parallel TLS handshakes need
// several calls, but any call may hang and keep its goroutine, so the limit is low.
const AtOnce = 4

// Calls limits how many calls to one function run at a time. Each function has its own Calls.
type Calls chan struct{}

// NewCalls returns the Calls for a function that may run in atOnce goroutines at a time.
func NewCalls(atOnce int) Calls { return make(Calls, atOnce) }

// ErrLate is wrapped by the error for a function that does not return in time.
var ErrLate = errors.New("did not return in time")

// Call returns f's result. It waits for a free slot in calls and then for f. If ctx ends first, Call
// fails with ErrLate, and f, once started, occupies its slot until f returns. Errors and the log
// refer to f by the given name.
func Call[T any](ctx context.Context, calls Calls, name string, log *slog.Logger, f func() (T, error)) (result T, err error) {
	late := fmt.Errorf("%s %w", name, ErrLate)
	select {
	case calls <- struct{}{}:
	case <-ctx.Done():
		return result, late
	}
	type outcome struct {
		result T
		err    error
	}
	done := make(chan outcome, 1)
	Go(name, log, f, func(result T, err error) {
		<-calls
		done <- outcome{result, err}
	})
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return result, late
	}
}

// Go calls f in a new goroutine and then, in the same goroutine, passes f's result to done. If f
// panicked or ended its goroutine, done gets an error instead.
func Go[T any](name string, log *slog.Logger, f func() (T, error), done func(T, error)) {
	go func() {
		var result T
		var err error = crash(name + " ended its goroutine (runtime.Goexit)")
		defer func() {
			if recover() != nil { // the value may contain a secret
				err = crash(name + " panicked (its stack is logged if Logger is set)")
				log.Error(name+" panicked", "stack", string(debug.Stack()))
			}
			done(result, err)
		}()
		result, err = f()
	}()
}

// A crash is the error for a function that did not return. It is a net.Error, because every error from
// a token request must be a net.Error.
type crash string

func (c crash) Error() string { return string(c) }
func (crash) Timeout() bool   { return false }
func (crash) Temporary() bool { return false }

// A Handler passes each record to the handler in its field To, in a new goroutine, because that
// handler may block, panic, or call the very code that it logs for. Attributes from Logger.With are
// put into each record. Groups are not supported.
type Handler struct {
	To    slog.Handler
	attrs []slog.Attr
}

// Enabled returns true, because h.To must be called only in the goroutine that Handle starts.
func (h Handler) Enabled(context.Context, slog.Level) bool { return true }

func (h Handler) Handle(ctx context.Context, r slog.Record) error {
	go func() {
		defer func() { _ = recover() }()
		if !h.To.Enabled(ctx, r.Level) {
			return
		}
		full := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		full.AddAttrs(h.attrs...)
		r.Attrs(func(a slog.Attr) bool { full.AddAttrs(a); return true })
		_ = h.To.Handle(ctx, full)
	}()
	return nil
}

func (h Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return Handler{h.To, slices.Concat(h.attrs, attrs)}
}

func (h Handler) WithGroup(string) slog.Handler { return h }
