package behaviour_test

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// closing is a RoundTripper that notes the path of each request that has Close set.
func closing(srv *mosaictest.Server, hangs *atomic.Bool) (rt http.RoundTripper, closed *[]string) {
	closed = new([]string)
	return kit.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Close {
			*closed = append(*closed, r.URL.Path)
		}
		if hangs.Load() {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return srv.Client().Transport.RoundTrip(r)
	}), closed
}

func TestAnAPICallThatTimesOutGivesUpItsConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var hangs atomic.Bool
		rt, closed := closing(srv, &hangs)
		client := srv.Config().Client(kit.Over(t.Context(), rt))
		client.Timeout = 5 * time.Second
		call := func(path string, header ...string) error {
			req, err := http.NewRequest(http.MethodGet, srv.Endpoint().URL(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, value := range header {
				req.Header.Set("Authorization", value)
			}
			res, err := client.Do(req)
			if err == nil {
				res.Body.Close()
			}
			return err
		}
		for _, header := range [][]string{nil, {"Bearer mine"}} {
			for _, step := range []struct {
				path  string
				hangs bool
			}{{"/cis/before", false}, {"/cis/hangs", true}, {"/cis/next", false}, {"/cis/after", false}} {
				hangs.Store(step.hangs)
				if err := call(step.path, header...); (err != nil) != step.hangs {
					t.Errorf("%s: got error %v", step.path, err)
				}
			}
			hangs.Store(false)
			if err := call("/risk/token"); err != nil { // requests a token: its connection is not given up
				t.Error(err)
			}
			if want := []string{"/cis/next"}; !slices.Equal(*closed, want) {
				t.Errorf("got Close in %v; want it in %v", *closed, want)
			}
			*closed = nil
			time.Sleep(time.Minute)
		}
	})
}

func TestATokenRequestThatTimesOutGivesUpItsConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var hangs atomic.Bool
		rt, closed := closing(srv, &hangs)
		hangs.Store(true)
		time.AfterFunc(10*time.Second, func() { hangs.Store(false) })
		begun := time.Now()
		if _, err := srv.Config().TokenSource(kit.Over(t.Context(), rt)).Token(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); len(*closed) != 1 || took > 11*time.Second {
			t.Errorf("got Close in %d requests, and a token after %s; want it in the second attempt, and a token after 11s at most", len(*closed), took)
		}
	})
}

func TestAReplyOf421IsTriedAgainOverAnotherConnection(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		var hangs atomic.Bool
		rt, closed := closing(srv, &hangs)
		srv.FailNext(1, mosaictest.Fault{Status: http.StatusMisdirectedRequest})
		if _, err := srv.Config().Token(kit.Over(t.Context(), rt)); err != nil || len(*closed) != 1 {
			t.Errorf("got error %v, and Close in %d requests; want a token with the second attempt", err, len(*closed))
		}
	})
}

func TestTheDefaultTransportIsLookedUpAtEachRequest(t *testing.T) {
	srv := mosaictest.NewServer()
	defer srv.Close()
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, new(http.Client))
	src, client := srv.Config().TokenSource(ctx), srv.Config().Client(ctx)
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	http.DefaultTransport = srv.Client().Transport
	if _, err := src.Token(); err != nil {
		t.Error(err)
	}
	if err := kit.Fetch(client, srv.Endpoint().URL("/cis/x"), http.StatusOK); err != nil {
		t.Error(err)
	}
}
