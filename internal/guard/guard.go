// Package guard calls signers. They are foreign code, of a KMS or an HSM often:
// one may hang, panic, or end its goroutine.
package guard

import (
	"context"
	"crypto"
	"log/slog"
	"reflect"
	"runtime/debug"
	"sync"
)

// A Guard has a signer called once at a time, so that one that hangs costs one
// goroutine. It is safe for concurrent use.
type Guard struct {
	Of     any // whom the signer is called for, a pointer: what all Guards of it call in turn
	Signer crypto.Signer
	Name   string // of the signer, in errors and in the log
	Log    *slog.Logger
}

// An Error says that a signer brought nothing.
type Error struct {
	text string
	Late bool // it has not returned in time, or not had its turn
}

func (e *Error) Error() string { return e.text }

// calls has the calls that are under way: turn → chan struct{}, closed when the
// next may begin.
var calls sync.Map

// A turn is what one signer's callers wait for: another signer, in the place of
// one that hangs, does not wait for that.
type turn struct{ of, signer any }

// Call returns what sign, which calls g.Signer, returns, or an [Error]. It waits
// for its turn and for sign until ctx ends.
func Call[T any](ctx context.Context, g Guard, sign func() (T, error)) (T, error) {
	own := turn{g.Of, nil}
	if reflect.ValueOf(g.Signer).Comparable() { // an ed25519.PrivateKey is not, and does not hang
		own.signer = g.Signer
	}
	late := &Error{g.Name + " did not sign in time", true}
	done := make(chan struct{})
	for {
		before, loaded := calls.LoadOrStore(own, done)
		if !loaded {
			break
		}
		select {
		case <-before.(chan struct{}):
		case <-ctx.Done():
			return *new(T), late
		}
	}

	var result T
	var err error = &Error{g.Name + " ended its goroutine (runtime.Goexit)", false}
	go func() {
		var stack []byte
		defer func() {
			if recover() != nil { // its value may hold anything, a key too
				stack = debug.Stack()
				err = &Error{g.Name + " panicked (its stack is in the log)", false}
			}
			calls.Delete(own)
			close(done)
			if stack != nil { // when nobody waits any more: the log handler may ask for a token
				defer func() { _ = recover() }()
				g.Log.Error("mosaic: "+g.Name+" panicked", "stack", string(stack))
			}
		}()
		result, err = sign()
	}()
	select {
	case <-done:
		return result, err
	case <-ctx.Done():
		return *new(T), late
	}
}
