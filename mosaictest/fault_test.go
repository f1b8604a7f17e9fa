package mosaictest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestFaults(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		send := func() (*http.Response, error) { return s.Client().Do(tokenRequest(s, "/oidc/token", nil)) }
		outage := mosaictest.Fault{Status: 503, Header: http.Header{"X-A": {"1", "2"}}, Body: "<html>down"}
		s.Fail(outage)
		outage.Header.Set("X-A", "changed")
		s.FailNext(2, mosaictest.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}, "Date": {"yesterday"}}})
		s.FailNext(1, mosaictest.Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}, "Date": nil}, Body: "<html>"})
		s.FailNext(-1, mosaictest.Fault{Status: 418})
		for i, want := range []struct {
			status            int
			contentType, date string
			body              string
		}{
			{429, "", "yesterday", ""},
			{429, "", "yesterday", ""},
			{200, "text/html", "", "<html>"},
			{503, "", "own", "<html>down"},
			{503, "", "own", "<html>down"},
		} {
			got := do(t, s.Client(), tokenRequest(s, "/oidc/token", nil)) // not even a form: a fault does not look
			date := got.Header.Get("Date")
			if at, err := http.ParseTime(date); err == nil && time.Since(at).Abs() < time.Minute {
				date = "own"
			}
			if got.StatusCode != want.status || got.Header.Get("Content-Type") != want.contentType || date != want.date || got.body != want.body {
				t.Errorf("request %d: got %d %q %q %q; want %v", i, got.StatusCode, got.Header.Get("Content-Type"), date, got.body, want)
			}
			if _, has := got.Header["Date"]; want.date == "" && has {
				t.Errorf("request %d: has a Date", i)
			}
			if want.status == 503 && len(got.Header["X-A"]) != 2 {
				t.Errorf("request %d: X-A: %q", i, got.Header["X-A"])
			}
		}
		s.FailNext(5, outage)
		s.Heal()
		token(t, s, "")

		s.FailNext(1, mosaictest.Fault{})
		if resp, err := send(); err == nil {
			t.Errorf("the zero Fault: got %s; want an error", resp.Status)
		}
		s.FailNext(1, mosaictest.Fault{Status: 200, Header: http.Header{"Content-Length": {"100"}}, Body: "{"})
		resp, err := send()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an answer that breaks off: got %v; want unexpected EOF", err)
		}
		call(t, s, "/cis/x", token(t, s, "")).wants(t, 200)
	})
}

func TestBothShapesOfErrors(t *testing.T) {
	each(t, func(t *testing.T, s *mosaictest.Server) {
		for _, tt := range []struct {
			fault        mosaictest.Fault
			body         string
			cacheControl string
		}{
			{mosaictest.OAuthError(400, "invalid_scope", "not yours"), `{"error":"invalid_scope","error_description":"not yours"}`, "no-store"},
			{mosaictest.OAuthError(400, "invalid_scope", ""), `{"error":"invalid_scope"}`, "no-store"},
			{mosaictest.MessageError(400, "one"), `{"error_code":400,"message":"one"}`, ""},
			{mosaictest.MessageError(400, []string{"one"}), `{"error_code":400,"message":["one"]}`, ""},
			{mosaictest.MessageError(400, []string{"one", "two"}), `{"error_code":400,"message":["one","two"]}`, ""},
		} {
			s.FailNext(1, tt.fault)
			got := post(t, s)
			if got.StatusCode != 400 || got.body != tt.body || got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Cache-Control") != tt.cacheControl {
				t.Errorf("got %s %v %s; want %s", got.Status, got.Header, got.body, tt.body)
			}
		}
	})
}

func TestHangEndsWithTheClientOrTheServer(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
		tok := token(t, s, "")
		s.Fail(mosaictest.Fault{Hang: true})
		s.Handle("/cis/", mosaictest.Fault{Hang: true})
		hang := func(ctx context.Context, req *http.Request) error {
			resp, err := s.Client().Do(req.WithContext(ctx))
			if err == nil {
				resp.Body.Close()
			}
			return err
		}
		requests := func() []*http.Request {
			return []*http.Request{tokenRequest(s, "/oidc/token", secretForm(s)), apiRequest(s, "/cis/x", tok)}
		}
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*time.Second)
				defer cancel()
				if err := hang(ctx, requests()[i%2]); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != 9*time.Second {
			t.Errorf("the last caller had waited %v; want 9s", d)
		}

		released := make(chan error, 2)
		for _, req := range requests() {
			go func() { released <- hang(context.Background(), req) }()
		}
		time.Sleep(5 * time.Hour)
		s.Heal()
		s.Handle("/cis/", nil)
		synctest.Wait()
		if len(released) > 0 {
			t.Errorf("Heal ended a hanging request: %v", <-released)
		}
		for _, reqs := range [][]mosaictest.Request{s.TokenRequests(), s.APIRequests()} {
			if status := reqs[len(reqs)-1].Status; status != 0 {
				t.Errorf("a hanging request has status %d", status)
			}
		}
		start = time.Now()
		go s.Close()
		for range 2 {
			if err := <-released; err == nil {
				t.Error("a hanging request was answered on Close")
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("they were broken off %v after Close", d)
		}
	})
}

func TestLatency(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
		timed := func(want time.Duration) reply {
			t.Helper()
			start := time.Now()
			got := post(t, s)
			if d := time.Since(start); d != want {
				t.Errorf("took %v; want %v", d, want)
			}
			return got
		}
		giveUp := func(wait time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			start := time.Now()
			_, err := s.Client().Do(tokenRequest(s, "/oidc/token", secretForm(s)).WithContext(ctx))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != wait {
				t.Errorf("given up after %v: %v after %v", wait, err, time.Since(start))
			}
		}
		timed(0)
		s.SetLatency(2*time.Second, 8*time.Second)
		start := time.Now()
		got := timed(10 * time.Second)
		if iat := int64(claims(t, accessToken(t, got))["iat"].(float64)); iat != start.Unix()+2 {
			t.Errorf("minted %ds after the request; want 2s", iat-start.Unix())
		}
		if date, _ := http.ParseTime(got.Header.Get("Date")); !date.Equal(start.Add(2 * time.Second)) {
			t.Errorf("Date is %v after the request; want 2s", date.Sub(start))
		}
		s.FailNext(1, mosaictest.Fault{Status: 500})
		timed(10*time.Second).wants(t, 500)
		giveUp(time.Second)
		giveUp(5 * time.Second)
		s.SetLatency(0, 0)
		timed(0)

		s.SetLatency(0, time.Hour)
		released := make(chan error)
		go func() {
			_, err := s.Client().Do(tokenRequest(s, "/oidc/token", secretForm(s)))
			released <- err
		}()
		time.Sleep(time.Minute)
		start = time.Now()
		go s.Close()
		if err := <-released; err == nil {
			t.Error("a request that waits was answered on Close")
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("it was broken off %v after Close", d)
		}
	})
}
