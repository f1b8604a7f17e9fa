package refresh

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"golang.org/x/oauth2"
)

func TestOfADroppedSourceOnlyItsTimerIsLeftAndFiresOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(func(context.Context, int) (*Token, error) {
			return &Token{Token: oauth2.Token{AccessToken: "t", Expiry: time.Now().Add(time.Hour)}, Sent: time.Now(), Lifetime: time.Hour}, nil
		}, slog.New(slog.DiscardHandler))
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		timer, dropped := s.timer, weak.Make(s)
		for range 10 {
			runtime.GC()
		}
		if dropped.Value() != nil {
			t.Error("the timer keeps the source alive")
		}
		time.Sleep(40 * time.Minute) // by then the renewal would have been due
		synctest.Wait()
		if timer.Stop() {
			t.Error("the timer is still running")
		}
	})
}

// A call that took the old token a moment before its successor came does not renew the successor.
func TestASuccessorThatHasJustComeIsNotRenewed(t *testing.T) {
	token := func(left time.Duration) *Token {
		now := time.Now()
		return &Token{Token: oauth2.Token{Expiry: now.Add(left).Round(0)}, Sent: now.Add(left - time.Hour), Lifetime: time.Hour}
	}
	s := New(func(context.Context, int) (*Token, error) { return token(time.Hour), nil }, slog.New(slog.DiscardHandler))
	old := &entry{Token: token(time.Minute), due: 20 * time.Minute}
	s.current.Store(&entry{Token: token(time.Hour), due: 20 * time.Minute})
	s.renew(old)
	if s.inflight != nil {
		t.Error("a fresh token is being renewed")
	}
}
