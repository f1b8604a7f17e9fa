package guard_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/internal/guard"
)

// signer is a crypto.Signer that is told from another by its name.
type signer struct{ name string }

func (signer) Public() crypto.PublicKey { return nil }
func (signer) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, nil
}

func TestACallBringsAResultOrAnError(t *testing.T) {
	locked := errors.New("locked")
	for _, tt := range []struct {
		name   string
		sign   func() (string, error)
		want   string // of the error
		late   bool
		logged bool
	}{
		{"a result", func() (string, error) { return "signed", nil }, "", false, false},
		{"an error", func() (string, error) { return "", locked }, "locked", false, false},
		{"a panic", func() (string, error) { panic("a key") }, "The key panicked (its stack is in the log)", false, true},
		{"Goexit", func() (string, error) { runtime.Goexit(); return "", nil }, "The key ended its goroutine (runtime.Goexit)", false, false},
		{"too late", func() (string, error) { time.Sleep(time.Minute); return "signed", nil }, "The key did not sign in time", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				g := guard.Guard{Of: t, Signer: signer{}, Name: "The key", AtOnce: 1, Log: slog.New(slog.NewTextHandler(&log, nil))}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				got, err := guard.Call(ctx, g, tt.sign)
				switch {
				case tt.want == "" && (err != nil || got != "signed"):
					t.Errorf("got %q and error %v; want what sign returns", got, err)
				case tt.want != "" && (err == nil || err.Error() != tt.want || got != ""):
					t.Errorf("got %q and error %v; want error %q", got, err, tt.want)
				}
				var failed *guard.Error
				if errors.As(err, &failed) && failed.Late != tt.late {
					t.Errorf("got late: %t; want %t", failed.Late, tt.late)
				}
				synctest.Wait()
				if got := strings.Contains(log.String(), "guard_test.go"); got != tt.logged || strings.Contains(log.String(), "a key") {
					t.Errorf("the stack, and not the panic's value, is in the log: %t; want %t", got, tt.logged)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestCallsOfOneSignerWaitForEachOther(t *testing.T) {
	type own struct{ _ int }
	one, other := new(own), new(own)
	seed := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	for _, tt := range []struct {
		name          string
		first, second guard.Guard
		want          time.Duration // that the second is there after the first has begun
	}{
		{"the same", guard.Guard{Of: one, Signer: signer{"a"}, AtOnce: 1}, guard.Guard{Of: one, Signer: signer{"a"}, AtOnce: 1}, 2 * time.Second},
		{"a key that is not comparable", guard.Guard{Of: one, Signer: seed, AtOnce: 1}, guard.Guard{Of: one, Signer: seed, AtOnce: 1}, 2 * time.Second},
		{"another signer", guard.Guard{Of: one, Signer: signer{"a"}, AtOnce: 1}, guard.Guard{Of: one, Signer: signer{"b"}, AtOnce: 1}, time.Second},
		{"the same, two at once", guard.Guard{Of: one, Signer: signer{"a"}, AtOnce: 2}, guard.Guard{Of: one, Signer: signer{"a"}, AtOnce: 2}, time.Second},
		{"by another name", guard.Guard{Of: one, Signer: seed, AtOnce: 1}, guard.Guard{Of: one, Signer: seed, Name: "b", AtOnce: 1}, time.Second},
		{"of another", guard.Guard{Of: one, Signer: signer{"a"}, AtOnce: 1}, guard.Guard{Of: other, Signer: signer{"a"}, AtOnce: 1}, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sign := func() (bool, error) { time.Sleep(time.Second); return true, nil }
				begun := time.Now()
				go guard.Call(t.Context(), tt.first, sign)
				synctest.Wait()
				if _, err := guard.Call(t.Context(), tt.second, sign); err != nil {
					t.Error(err)
				}
				if got := time.Since(begun); got != tt.want {
					t.Errorf("the second was there after %s; want %s", got, tt.want)
				}
			})
		})
	}
}

func TestALogHandlerThatPanicsEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := guard.Guard{Of: t, Signer: signer{}, Name: "The key", AtOnce: 1} // without a Log, to log is to panic
		if _, err := guard.Call(t.Context(), g, func() (int, error) { panic("a key") }); err == nil {
			t.Error("got no error of a call that panicked")
		}
	})
}
