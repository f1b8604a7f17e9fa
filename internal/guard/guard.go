// Package guard calls foreign code: signers, callbacks and log handlers. Such code may hang, panic,
// or end its goroutine.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// AtOnce is the usual number of calls of a signer or a callback at a time: parallel TLS
	// handshakes need several; each can hang, so few.
	AtOnce = 4

	patience = 5 * time.Second // from this age on a call counts as hung
)

// Calls bounds the calls of one function. Another function has Calls of its own.
type Calls struct {
	slots  chan struct{}
	newest atomic.Pointer[time.Time] // when the newest call began; nil: one has returned since
}

// NewCalls returns Calls for a function called by up to atOnce goroutines at a time.
func NewCalls(atOnce int) *Calls { return &Calls{slots: make(chan struct{}, atOnce)} }

// ErrLate is wrapped by the error of a late function.
var ErrLate = errors.New("did not return in time")

// Call returns f's result. Until ctx ends it waits for one of the slots and for f; if the calls in
// all slots hang, it does not wait. The name is f's, in errors and in the log.
func Call[T any](ctx context.Context, calls *Calls, name string, log *slog.Logger, f func() (T, error)) (result T, err error) {
	late := fmt.Errorf("%s %w", name, ErrLate)
	if begun := calls.newest.Load(); len(calls.slots) == cap(calls.slots) && begun != nil && time.Since(*begun) >= patience {
		return result, late
	}
	select {
	case calls.slots <- struct{}{}:
	case <-ctx.Done():
		return result, late
	}
	begun := time.Now()
	calls.newest.Store(&begun)
	done := make(chan struct{})
	var got T
	var gotErr error
	Go(name, log, f, func(result T, err error) {
		calls.newest.Store(nil) // or the next calls would look hung between taking a slot and the Store above
		<-calls.slots
		got, gotErr = result, err
		close(done)
	})
	select {
	case <-done:
		return got, gotErr
	case <-ctx.Done():
		return result, late
	}
}

// Go calls f in a goroutine of its own, and then done with f's result, or with an error if f
// panicked or ended its goroutine.
func Go[T any](name string, log *slog.Logger, f func() (T, error), done func(T, error)) {
	go func() {
		var result T
		err := errors.New(name + " ended its goroutine (runtime.Goexit)")
		defer func() {
			if recover() != nil { // the value may hold a secret
				err = errors.New(name + " panicked (its stack is in the log)")
				log.Error(name+" panicked", "stack", string(debug.Stack()))
			}
			done(result, err)
		}()
		result, err = f()
	}()
}

// A Handler calls To in a goroutine for each record: it may block, panic, or call the very code it
// logs for. Attributes of Logger.With are put into each record. Groups are not supported.
type Handler struct {
	To    slog.Handler
	attrs []slog.Attr
}

// Enabled leaves the question to Handle.
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
