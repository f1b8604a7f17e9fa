package behaviour_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestForeignCodeEndsNeitherTheProcessNorTheSource(t *testing.T) {
	const poison = "a value with a secret"
	for _, tt := range []struct {
		name   string
		do     func(src *mosaic.TokenSource)
		within time.Duration // the first call has its error
		says   string
		places string
	}{
		{"panic", func(*mosaic.TokenSource) { panic(poison) }, 2 * time.Second, "panicked (its stack is logged if Logger is set)", "transport"},
		{"Goexit", func(*mosaic.TokenSource) { runtime.Goexit() }, 2 * time.Second, "ended its goroutine (runtime.Goexit)", "transport"},
		{"ask the same source for a token", func(src *mosaic.TokenSource) { src.Token() }, 30 * time.Second, "did not return in time", "signer GetCredentials"},
	} {
		for place := range strings.FieldsSeq(tt.places) {
			t.Run(tt.name+" in a "+place, func(t *testing.T) {
				kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
					var src *mosaic.TokenSource
					var bad atomic.Bool
					maybe := func() {
						if bad.Load() {
							tt.do(src)
						}
					}
					var log kit.Log
					conf, ctx := srv.Config(), srv.Context(t.Context())
					conf.Logger = log.Logger(slog.LevelInfo)
					switch place {
					case "transport":
						ctx = kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
							maybe()
							return srv.Client().Transport.RoundTrip(req)
						}))
					case "signer":
						conf.ClientSecret, conf.PrivateKey = "", &kit.Signer{Signer: kit.EC(), Before: func() error { maybe(); return nil }}
						srv.RegisterKey(conf.ClientID, kit.JWKS(t, conf))
					case "GetCredentials":
						secret := conf.ClientSecret
						conf.ClientSecret = ""
						conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) {
							maybe()
							return mosaic.Credentials{ClientSecret: secret}, nil
						}
					}
					src = conf.TokenSource(ctx)

					bad.Store(true)
					begun := time.Now()
					var network net.Error
					if _, err := src.Token(); !errors.As(err, &network) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), poison) || time.Since(begun) > tt.within {
						t.Errorf("after %s got error %v; want a net.Error with %q within %s, without the panic's value", time.Since(begun), err, tt.says, tt.within)
					}
					if place == "transport" {
						if _, err := conf.Token(ctx); err == nil || !strings.Contains(err.Error(), tt.says) {
							t.Errorf("Config.Token: got error %v; want %q", err, tt.says)
						}
					}
					bad.Store(false)
					time.Sleep(time.Second)
					kit.Promptly(t, src)
					bad.Store(true)
					call := func() { kit.Promptly(t, src) }
					kit.Every(time.Minute, 55*time.Minute, call)
					bad.Store(false)
					kit.Every(time.Minute, time.Hour, call)

					synctest.Wait()
					if stack := strings.Contains(log.String(), "stack="); stack != (tt.name == "panic") || strings.Contains(log.String(), poison) {
						t.Errorf("a stack is in the log: %t, and the panic's value: %t", stack, strings.Contains(log.String(), poison))
					}
				})
			})
		}
	}
}

// handler is a slog.Handler made of a function.
type handler func()

func (h handler) Enabled(context.Context, slog.Level) bool  { return true }
func (h handler) Handle(context.Context, slog.Record) error { h(); return nil }
func (h handler) WithAttrs([]slog.Attr) slog.Handler        { panic("attributes") }
func (h handler) WithGroup(string) slog.Handler             { return h }

func TestALogHandlerMayDoAnything(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(src *mosaic.TokenSource)
	}{
		{"panic", func(*mosaic.TokenSource) { panic("log") }},
		{"end its goroutine", func(*mosaic.TokenSource) { runtime.Goexit() }},
		{"ask the same source for a token", func(src *mosaic.TokenSource) { src.Token() }},
		{"block for an hour", func(*mosaic.TokenSource) { time.Sleep(time.Hour) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				conf := srv.Config()
				var src *mosaic.TokenSource
				var handled atomic.Int32
				conf.Logger = slog.New(handler(func() {
					handled.Add(1)
					tt.do(src)
				}))
				ctx := srv.Context(t.Context())
				src = conf.TokenSource(ctx)
				client := conf.Client(ctx)
				promptly := func(calls ...func() error) {
					t.Helper()
					begun := time.Now()
					for i, call := range calls {
						if err := call(); err != nil || time.Since(begun) != 0 {
							t.Errorf("call %d: got error %v after %s; want none, at once", i+1, err, time.Since(begun))
						}
					}
				}
				get := func(url string) error {
					res, err := client.Get(url)
					if err == nil {
						res.Body.Close()
					}
					return err
				}
				fails := func(err error) error {
					if err == nil || !strings.Contains(err.Error(), "invalid_client") {
						return fmt.Errorf("%v instead of the endpoint's", err)
					}
					return nil
				}
				srv.Fail(refusing)
				promptly(
					func() error { _, err := src.Token(); return fails(err) },
					func() error { return fails(get(srv.Endpoint().URL("/cis/v1/users"))) },
				)
				srv.Heal()
				time.Sleep(2 * time.Second)
				promptly(
					func() error {
						tok, err := src.Token()
						if err == nil && time.Until(tok.Expiry) < 59*time.Minute {
							err = errors.New("the first token has nearly ended")
						}
						return err
					},
					func() error { return get(srv.Endpoint().URL("/cis/v1/users")) },
					func() error { return get("https://logs.example.com/") }, // without a token
					func() error { _, err := conf.Token(ctx); return err },
				)
				call := func() { kit.Promptly(t, src) }
				kit.Every(time.Minute, 30*time.Minute, call)
				srv.Fail(unavailable)
				kit.Every(time.Minute, 20*time.Minute, call)
				srv.Heal()
				kit.Every(time.Minute, 2*time.Hour, call)
				if n := handled.Load(); n < 12 {
					t.Errorf("the handler got %d records; want some of each kind", n)
				}
				time.Sleep(2 * time.Hour) // over the last renewal and its record
			})
		})
	}
}
