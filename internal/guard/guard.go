// Package guard calls foreign code: signers, callbacks and log handlers. It may
// hang, panic, or end its goroutine.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	atOnce = 4 // calls of one function: more than one, for parallel TLS handshakes; few, for each can hang

	// patience is the age from which a call counts as one that never returns.
	patience = 5 * time.Second
)

// Calls bounds the calls of one function. Another function has Calls of its own.
type Calls struct {
	slots chan struct{}
	hung  atomic.Int32
}

// NewCalls returns Calls for a function called by up to four goroutines at a time.
func NewCalls() *Calls { return &Calls{slots: make(chan struct{}, atOnce)} }

// ErrLate is in the error of a [Call] whose function did not return in time.
var ErrLate = errors.New("did not return in time")

// Call returns f's result. It waits for a slot and for f until ctx ends, and does
// not wait if every slot has hung. The name is f's, in errors and in the log.
func Call[T any](ctx context.Context, calls *Calls, name string, log *slog.Logger, f func() (T, error)) (result T, err error) {
	late := fmt.Errorf("%s %w", name, ErrLate)
	if calls.hung.Load() == atOnce {
		return result, late
	}
	select {
	case calls.slots <- struct{}{}:
	case <-ctx.Done():
		return result, late
	}
	old := time.AfterFunc(patience, func() { calls.hung.Add(1) })
	done := make(chan struct{})
	var got T
	var gotErr error
	Go(name, log, f, func(result T, err error) {
		if !old.Stop() {
			calls.hung.Add(-1)
		}
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

// Go calls f in a goroutine of its own, and then done with f's result, or with an
// error if f panicked or ended its goroutine.
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

// A Handler passes each record to its own Handler in a goroutine, so that it may
// block, panic, or call the very code that logs.
type Handler struct{ slog.Handler }

// Enabled leaves the question to Handle.
func (h Handler) Enabled(context.Context, slog.Level) bool { return true }

// Handle does not wait, and never fails.
func (h Handler) Handle(ctx context.Context, r slog.Record) error {
	go func() {
		defer func() { _ = recover() }()
		if h.Handler.Enabled(ctx, r.Level) {
			_ = h.Handler.Handle(ctx, r)
		}
	}()
	return nil
}

// WithAttrs returns a Handler.
func (h Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return Handler{h.Handler.WithAttrs(attrs)}
}

// WithGroup returns a Handler.
func (h Handler) WithGroup(name string) slog.Handler { return Handler{h.Handler.WithGroup(name)} }
