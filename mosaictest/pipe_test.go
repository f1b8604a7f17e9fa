package mosaictest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

func TestInMemoryServerInABubble(t *testing.T) {
	for range 3 { // nothing is left of one bubble that panics in the next
		kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
			start := time.Now()
			if s.Endpoint() != "https://example.com" {
				t.Errorf("Endpoint: %s", s.Endpoint())
			}
			tok := token(t, s, "")
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() { call(t, s, fmt.Sprint("/cis/", i), tok).wants(t, 200) })
			}
			wg.Wait()
			if d := time.Since(start); d != 0 {
				t.Errorf("50 calls took %v", d)
			}
			time.Sleep(1000 * time.Hour) // idle connections
			call(t, s, "/cis/x", token(t, s, "")).wants(t, 200)
			if _, err := s.Client().Get("https://api.transmitsecurity.io/"); err == nil || !strings.Contains(err.Error(), "ServeAs") {
				t.Errorf("another host: %v", err)
			}

			clone := s.Client().Transport.(*http.Transport).Clone()
			clone.ForceAttemptHTTP2 = true
			do(t, &http.Client{Transport: clone}, apiRequest(s, "/cis/x", "")).wants(t, 401)
			sub := apiRequest(s, "/cis/x", "")
			sub.URL.Host, sub.Host = "login.example.com", ""
			do(t, s.Client(), sub).wants(t, 401)
			if reqs := s.APIRequests(); reqs[len(reqs)-1].Host != "login.example.com" || reqs[0].Host != "example.com" {
				t.Errorf("hosts: %s, then %s", reqs[0].Host, reqs[len(reqs)-1].Host)
			}

			s.Close()
			if _, err := s.Client().Get(string(s.Endpoint())); err == nil || !strings.Contains(err.Error(), "is closed") {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

// With net.Pipe this is a deadlock: see pipe.
func TestCloseBesideAResponseThatNobodyReads(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
		tok := token(t, s, "")
		s.Handle("/long", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(bytes.Repeat([]byte("x"), 1<<20))
		}))
		ctx, cancel := context.WithCancel(t.Context())
		for _, path := range []string{"/long", "/cis/x", "/long"} {
			if _, err := s.Client().Do(apiRequest(s, path, tok).WithContext(ctx)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		cancel()
	})
}

// Without Close's sleep the bubble panics.
func TestATokenRequestOutlivesItsCaller(t *testing.T) {
	for name, fail := range map[string]func(s *mosaictest.Server){
		"hang":    func(s *mosaictest.Server) { s.Fail(mosaictest.Fault{Hang: true}) },
		"latency": func(s *mosaictest.Server) { s.SetLatency(5*time.Second, 0) },
		"backoff": func(s *mosaictest.Server) {
			s.Fail(mosaictest.Fault{Status: 429, Header: http.Header{"Retry-After": {"29"}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
				fail(s)
				client := s.Config().Client(s.Context(t.Context()))
				client.Timeout = time.Second
				if _, err := client.Get(s.Endpoint().URL("/cis/x")); err == nil {
					t.Error("got an answer; want a timeout")
				}
			})
		})
	}
}

func TestInMemoryConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, s *mosaictest.Server) {
		conn, err := s.Client().Transport.(*http.Transport).DialContext(t.Context(), "tcp", "example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		read := func() error {
			_, err := conn.Read(make([]byte, 1))
			return err
		}
		start := time.Now()
		conn.SetReadDeadline(start.Add(time.Minute))
		time.AfterFunc(time.Second, func() { conn.SetReadDeadline(start.Add(time.Hour)) })
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("with a deadline put off to an hour: %v after %v", err, time.Since(start))
		}
		conn.SetDeadline(time.Now().Add(-1))
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("with a deadline in the past: %v", err)
		}
		conn.SetDeadline(time.Time{})
		time.AfterFunc(time.Second, s.Close)
		if err := read(); err != io.EOF {
			t.Errorf("closed by the server: %v", err)
		}
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Error("write to a server that has closed: no error")
		}
		conn.Close()
		if err := read(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}
