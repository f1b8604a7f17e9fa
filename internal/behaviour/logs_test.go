package behaviour_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// A record is one of a log, its attributes with those of the logger.
type record struct {
	slog.Record
	attrs map[string]slog.Value
}

// String returns the level, the message and the keys.
func (r record) String() string {
	return fmt.Sprint(r.Level, " ", r.Message, " ", strings.Join(slices.Sorted(maps.Keys(r.attrs)), " "))
}

// records are those of one recorder.
type records struct {
	mu  sync.Mutex
	all []record
}

// take returns the records since the last call, once all are written.
func (rs *records) take() []record {
	synctest.Wait()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	defer func() { rs.all = nil }()
	return rs.all
}

// A recorder is a slog.Handler that keeps its records.
type recorder struct{ kept *records }

func (h recorder) Enabled(context.Context, slog.Level) bool { return true }
func (h recorder) WithGroup(string) slog.Handler            { panic("a group") }

func (h recorder) WithAttrs([]slog.Attr) slog.Handler { panic("attributes out of the record") }

func (h recorder) Handle(_ context.Context, r slog.Record) error {
	kept := record{r, map[string]slog.Value{}}
	r.Attrs(func(a slog.Attr) bool {
		if _, twice := kept.attrs[a.Key]; twice {
			panic("twice: " + a.Key)
		}
		kept.attrs[a.Key] = a.Value
		return true
	})
	h.kept.mu.Lock()
	defer h.kept.mu.Unlock()
	h.kept.all = append(h.kept.all, kept)
	return nil
}

// kinds are the kinds of values by key, without client_id, endpoint and resource.
var kinds = map[string]slog.Kind{
	"lifetime": slog.KindDuration, "took": slog.KindDuration, "failing_for": slog.KindDuration, "retry_in": slog.KindDuration,
	"failures": slog.KindInt64, "error": slog.KindAny, "host": slog.KindString, "reason": slog.KindString,
	"method": slog.KindString, "kid": slog.KindString, "x5t": slog.KindString, "stack": slog.KindString,
}

func isKey(word string) bool {
	_, ok := kinds[word]
	return ok
}

// documented returns the records in the package documentation: their keys by level and message, the
// optional ones behind a semicolon.
func documented(t *testing.T) map[string]string {
	source, err := os.ReadFile("../../mosaic.go")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	var before []string
	for _, m := range regexp.MustCompile(`(?m)^//\t((?:DEBUG|INFO|WARN|ERROR) +mosaic: .*?)   *(.*)$`).FindAllStringSubmatch(string(source), -1) {
		var keys [2][]string
		for i, part := range strings.SplitN(m[2], ";", 2) {
			if strings.HasPrefix(part, "the same") {
				keys[i] = slices.Clone(before)
			}
			for _, word := range regexp.MustCompile(`\w+`).FindAllString(part, -1) {
				if isKey(word) && !slices.Contains(keys[i], word) {
					keys[i] = append(keys[i], word)
				}
			}
			slices.Sort(keys[i])
		}
		before = keys[0]
		list[strings.Join(strings.Fields(m[1]), " ")] = strings.Join(keys[0], " ") + "; " + strings.Join(keys[1], " ")
	}
	return list
}

// Each row provokes records. Every record has client_id and endpoint, those of tokens have resource.
func TestTheLogIsAContract(t *testing.T) {
	mustToken := func(t *testing.T, src *mosaic.TokenSource) {
		t.Helper()
		if _, err := src.Token(); err != nil {
			t.Error(err)
		}
	}
	wantError := func(t *testing.T, src *mosaic.TokenSource) {
		t.Helper()
		if _, err := src.Token(); err == nil {
			t.Error("a call was served; want an error")
		}
	}
	const (
		obtained = "DEBUG mosaic: token obtained lifetime took"
		ended    = "INFO mosaic: token obtained failing_for failures lifetime took"
		failed   = "WARN mosaic: token request failed error failures took"
	)
	type world struct {
		*mosaictest.Server
		conf *mosaic.Config
		ctx  context.Context
	}
	rows := []struct {
		name    string
		provoke func(t *testing.T, w world)
		want    []string
	}{
		{"tokens by each way", func(t *testing.T, w world) {
			mustToken(t, w.conf.TokenSource(w.ctx))
			if _, err := w.conf.Token(w.ctx); err != nil {
				t.Error(err)
			}
			getUsers(t, w.conf.Client(w.ctx), w.Server)
		}, []string{obtained, obtained, obtained}},
		{"a token for a service", func(t *testing.T, w world) {
			w.conf.Resource = mosaic.FraudPrevention
			mustToken(t, w.conf.TokenSource(w.ctx))
		}, []string{obtained}},
		{"a first request that fails, the end of failures, and a renewal", func(t *testing.T, w world) {
			src := w.conf.TokenSource(w.ctx)
			w.Fail(refusing)
			wantError(t, src)
			wantError(t, src)
			w.Heal()
			time.Sleep(2 * time.Second)
			mustToken(t, src)
			time.Sleep(time.Hour)
		}, []string{failed, ended, obtained}},
		{"a renewal that fails, by a reply with the secret and the token", func(t *testing.T, w world) {
			src := w.conf.TokenSource(w.ctx)
			tok := kit.Promptly(t, src)
			w.Fail(mosaictest.Fault{Status: http.StatusBadGateway, Body: "client_secret=" + w.conf.ClientSecret + "&last_token=" + tok.AccessToken})
			for len(w.TokenRequests()) < 2 {
				time.Sleep(time.Second)
			}
			w.Heal()
			time.Sleep(5 * time.Second)
			kit.Promptly(t, src)
		}, []string{obtained, "WARN mosaic: token request failed error failures retry_in took", ended}},
		{"a renewal that fails too late for a retry", func(t *testing.T, w world) {
			w.SetLifetime(5 * time.Second)
			src := w.conf.TokenSource(w.ctx)
			kit.Promptly(t, src)
			time.Sleep(4 * time.Second) // a second token is there, and unused
			end := w.TokenRequests()[1].Time.Truncate(time.Second).Add(5 * time.Second)
			time.Sleep(time.Until(end) - 700*time.Millisecond)
			w.Fail(refusing)
			kit.Promptly(t, src)
		}, []string{obtained, obtained, failed}},
		{"credentials that change", func(t *testing.T, w world) {
			id, key := w.conf.ClientID, kit.EC()
			cert := kit.Certificate(t, "client", key, nil)
			next := mosaic.Credentials{ClientSecret: w.conf.ClientSecret}
			w.conf.ClientSecret = ""
			w.conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) { return next, nil }
			src := w.conf.TokenSource(w.ctx)
			obtain := func(creds mosaic.Credentials) {
				next = creds
				tok, err := src.Token()
				if err != nil {
					t.Fatal(err)
				}
				src.Invalidate(tok)
			}
			obtain(next)
			obtain(next)
			w.SetSecret("another-secret-0001")
			obtain(mosaic.Credentials{ClientSecret: "another-secret-0001"})
			next = mosaic.Credentials{PrivateKey: key}
			w.RegisterKey(id, kit.JWKS(t, w.conf))
			obtain(mosaic.Credentials{PrivateKey: key})
			obtain(mosaic.Credentials{PrivateKey: key, Certificate: cert})
			w.RegisterCertificate(id, cert.Leaf)
			obtain(mosaic.Credentials{Certificate: cert})
		}, []string{
			obtained, obtained, obtained, obtained, obtained, obtained, "INFO mosaic: credentials changed method", "INFO mosaic: credentials changed kid method",
			"INFO mosaic: credentials changed kid method x5t", "INFO mosaic: credentials changed method x5t",
		}},
		{"credentials that cannot be had", func(t *testing.T, w world) {
			secret, err := w.conf.ClientSecret, error(nil)
			w.conf.ClientSecret = ""
			w.conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) {
				return mosaic.Credentials{ClientSecret: secret}, err
			}
			src := w.conf.TokenSource(w.ctx)
			src.Invalidate(kit.Promptly(t, src))
			err = errors.New("the vault is sealed, and was asked for " + secret)
			kit.Promptly(t, src)
		}, []string{obtained, obtained, "WARN mosaic: using earlier credentials error"}},
		{"requests without a token", func(t *testing.T, w world) {
			client := w.conf.Client(w.ctx)
			const private = "Basic cHJpdmF0ZS1wYXNzd29yZA=="
			for _, tt := range []struct{ host, authorization string }{
				{"logs.example.com", ""}, {"vault.example.com", private}, {"example.com", private},
			} {
				req, _ := http.NewRequest(http.MethodGet, "https://"+tt.host+"/private-path?q=private-query", nil)
				if tt.authorization != "" {
					req.Header.Set("Authorization", tt.authorization)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
			}
		}, []string{
			"WARN mosaic: request sent without a token host reason", "DEBUG mosaic: request sent without a token host reason",
			"DEBUG mosaic: request sent without a token host reason",
		}},
		{"a transport that panics", func(t *testing.T, w world) {
			wantError(t, w.conf.TokenSource(kit.Over(w.ctx, kit.RoundTripper(func(*http.Request) (*http.Response, error) { panic(w.conf.ClientSecret) }))))
		}, []string{"ERROR mosaic: token request panicked stack", failed}},
		{"a signer that panics", func(t *testing.T, w world) {
			w.conf.ClientSecret, w.conf.PrivateKey = "", &kit.Signer{Signer: kit.EC(), Before: func() error { panic("a secret") }}
			wantError(t, w.conf.TokenSource(w.ctx))
		}, append(slices.Repeat([]string{"ERROR mosaic: PrivateKey panicked stack"}, 3), failed)},
		{"a certificate's key that panics", func(t *testing.T, w world) {
			w.conf.ClientSecret, w.conf.Certificate = "", kit.Certificate(t, "client", kit.EC(), nil)
			w.conf.Certificate.PrivateKey = &kit.Signer{Signer: kit.EC(), Before: func() error { panic("a secret") }}
			wantError(t, w.conf.TokenSource(w.ctx))
		}, append(slices.Repeat([]string{"ERROR mosaic: the private key of Certificate panicked stack"}, 3), failed)},
		{"a GetCredentials that panics", func(t *testing.T, w world) {
			w.conf.ClientSecret = ""
			w.conf.GetCredentials = func(context.Context) (mosaic.Credentials, error) { panic("a secret") }
			wantError(t, w.conf.TokenSource(w.ctx))
			if _, err := w.conf.JWKS(); err == nil {
				t.Error("there is a JWKS; want an error")
			}
		}, append(slices.Repeat([]string{"ERROR mosaic: GetCredentials panicked stack"}, 4), failed)},
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
				log, conf := new(records), srv.Config()
				secret := conf.ClientSecret
				conf.Logger = slog.New(recorder{kept: log})
				tt.provoke(t, world{srv, conf, srv.Context(t.Context())})

				var got []string
				for _, r := range log.take() {
					text := r.String()
					for key, value := range r.attrs {
						text += " " + value.String()
						if kind, ok := kinds[key]; ok && value.Kind() != kind {
							t.Errorf("%v: the kind of %s is %v; want %v", r, key, value.Kind(), kind)
						}
					}
					for _, leak := range []string{secret, "another-secret", "eyJ", "private-p", "private-q", "cHJpdmF", "a secret"} {
						if strings.Contains(text, leak) {
							t.Errorf("%v holds %q", r, leak)
						}
					}
					want := map[string]string{"client_id": conf.ClientID, "endpoint": string(conf.Endpoint)}
					if strings.HasPrefix(r.Message, "mosaic: token ") {
						want["resource"] = cmp.Or(string(conf.Resource), "default")
					}
					for key, value := range want {
						if v, ok := r.attrs[key]; !ok || v.String() != value {
							t.Errorf("%v: its %s is %q; want %q", r, key, v, value)
						}
						delete(r.attrs, key)
					}
					got = append(got, r.String())
				}
				slices.Sort(got)
				if want := slices.Sorted(slices.Values(tt.want)); !slices.Equal(got, want) {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		})
	}

	keys := map[string][][]string{} // of the records, by level and message
	for _, tt := range rows {
		for _, want := range tt.want {
			words := strings.Fields(want)
			n := slices.IndexFunc(words, isKey)
			kind := strings.Join(words[:n], " ")
			keys[kind] = append(keys[kind], words[n:])
		}
	}
	provoked := map[string]string{}
	for kind, all := range keys {
		var every, some []string
		for _, key := range slices.Sorted(maps.Keys(kinds)) {
			n := 0
			for _, one := range all {
				if slices.Contains(one, key) {
					n++
				}
			}
			if n == len(all) {
				every = append(every, key)
			} else if n > 0 {
				some = append(some, key)
			}
		}
		provoked[kind] = strings.Join(every, " ") + "; " + strings.Join(some, " ")
	}
	if listed := documented(t); !maps.Equal(listed, provoked) {
		t.Errorf("the package documentation lists\n%q\nbut the records are\n%q", listed, provoked)
	}
}

// A source says that it will try again only if it will.
func TestAnOutageIsLoggedOnceAMinuteWithItsEnd(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf, log := srv.Config(), new(records)
		conf.Logger = slog.New(recorder{kept: log})
		src := conf.TokenSource(srv.Context(t.Context()))
		srv.SetLatency(2*time.Second, 0)
		if _, err := src.Token(); err != nil {
			t.Fatal(err)
		}
		call := func() { kit.Promptly(t, src) }
		kit.Every(time.Minute, 30*time.Minute, call)
		srv.Fail(unavailable)
		kit.Every(time.Minute, 25*time.Minute, call)
		srv.Heal()
		kit.Every(time.Minute, 5*time.Hour, call)

		requests := srv.TokenRequests()
		statuses := map[int]int{}
		for _, req := range requests {
			statuses[req.Status]++
		}
		begun := func(at time.Time) bool { // to the millisecond
			return slices.ContainsFunc(requests, func(r mosaictest.Request) bool { return r.Time.Sub(at).Abs() <= time.Millisecond })
		}
		var failed []record
		var obtained, ends int
		for _, r := range log.take() {
			if r.Message == "mosaic: token request failed" {
				failed = append(failed, r)
				n := r.attrs["failures"].Int64()
				if len(failed) == 1 && n != 1 || len(failed) > 1 && (n <= failed[len(failed)-2].attrs["failures"].Int64() || r.Time.Sub(failed[len(failed)-2].Time) < time.Minute) {
					t.Errorf("failure %d is logged as warning %d; want the first and then one a minute", n, len(failed))
				}
				if in := r.attrs["retry_in"].Duration(); !begun(r.Time.Add(in)) {
					t.Errorf("at %s: there was no retry in %s", r.Time.Format(time.TimeOnly), in)
				}
				continue
			}
			obtained++
			// The token was minted, and its end is in whole seconds, two seconds after it was requested.
			if life := r.attrs["lifetime"].Duration(); r.attrs["took"].Duration() != 2*time.Second || life < time.Hour || life > time.Hour+3*time.Second {
				t.Errorf("a token of an hour that took 2 s is logged with %v", r.attrs)
			}
			if r.Level == slog.LevelInfo {
				ends++
				if n, d := r.attrs["failures"].Int64(), r.attrs["failing_for"].Duration(); n != int64(statuses[503]) || (r.Time.Sub(failed[0].Time)-d).Abs() > time.Millisecond {
					t.Errorf("%d failures since %s are logged with %v", statuses[503], failed[0].Time, r.attrs)
				}
			}
		}
		if obtained != statuses[200] || ends != 1 || len(failed) < 5 || len(failed) > 20 {
			t.Errorf("%d tokens, one outage of 15 to 19 minutes are logged as %d, %d, with %d warnings; want about one a minute", statuses[200], obtained, ends, len(failed))
		}
	})
}
