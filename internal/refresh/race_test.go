package refresh

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

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
