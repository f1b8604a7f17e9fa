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
	"time"
)

// A Guard has a signer called a few times at once at most, so that one that hangs
// costs no more goroutines than that. It is safe for concurrent use.
type Guard struct {
	Of     any // whom the signer is called for, a pointer: all Guards of it count together
	Signer crypto.Signer
	Name   string // of the signer, in errors and in the log
	AtOnce int
	Log    *slog.Logger
}

// An Error says that a signer brought nothing.
type Error struct {
	text string
	Late bool // it has not returned in time, or not had its turn
}

func (e *Error) Error() string { return e.text }

// A turn is what the callers of one signer wait for: another, in the place of one
// that hangs, does not wait for that.
type turn struct {
	of     any
	name   string
	signer any // nil: it cannot be compared
}

// A line is the callers of one turn.
type line struct {
	calls chan struct{} // holds a value for each call that is under way
	size  int           // calls and those who wait; guarded by mu
}

var (
	mu    sync.Mutex
	lines = make(map[turn]*line) // guarded by mu
)

func (g Guard) turn() turn {
	t := turn{of: g.Of, name: g.Name}
	if reflect.ValueOf(g.Signer).Comparable() {
		t.signer = g.Signer
	}
	return t
}

func (g Guard) enter(t turn) *line {
	mu.Lock()
	defer mu.Unlock()
	l := lines[t]
	if l == nil {
		l = &line{calls: make(chan struct{}, g.AtOnce)}
		lines[t] = l
	}
	l.size++
	return l
}

func (l *line) leave(t turn) {
	mu.Lock()
	defer mu.Unlock()
	if l.size--; l.size == 0 {
		delete(lines, t)
	}
}

// Call returns what sign, which calls g.Signer, returns, or an [Error]. It waits
// for its turn and for sign until ctx ends.
func Call[T any](ctx context.Context, g Guard, sign func() (T, error)) (T, error) {
	late := &Error{g.Name + " did not sign in time", true}
	t := g.turn()
	l := g.enter(t)
	select {
	case l.calls <- struct{}{}:
	case <-ctx.Done():
		l.leave(t)
		return *new(T), late
	}

	var result T
	var err error = &Error{g.Name + " ended its goroutine (runtime.Goexit)", false}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			broken := recover() != nil // its value may hold anything, a key too
			<-l.calls
			l.leave(t)
			if broken {
				err = &Error{g.Name + " panicked (its stack is in the log)", false}
				g.logStack(string(debug.Stack()))
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

// logStack does not wait long for the log's handler, which may itself wait for
// what the signer is called for.
func (g Guard) logStack(stack string) {
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		defer func() { _ = recover() }()
		g.Log.Error("mosaic: "+g.Name+" panicked", "stack", stack)
	}()
	select {
	case <-logged:
	case <-time.After(time.Second):
	}
}
