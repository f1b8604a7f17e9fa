// Package reconnect sends HTTP requests, and gives up a connection that has gone silent.
//
// A NAT, a firewall or a failover may forget a connection without notice. net/http drops an
// HTTP/1.1 connection after a request that timed out. But it keeps an HTTP/2 connection, and sends
// all further requests into it, until the kernel gives up after some 15 minutes.
package reconnect

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// release is how long net/http may need to remove a request that has timed out from its HTTP/2
	// connection, which is not idle before that. It was seen to take 20 ms.
	release = 50 * time.Millisecond

	// minPause must pass before another connection to the same host is given up, because a slow server
	// must not cost a TLS handshake for each slow reply.
	minPause = 5 * time.Second
)

// A Sender sends requests. Requests that may use different connections to a host, although they use
// one RoundTripper, must not share a Sender. It is safe for concurrent use, and its zero value is
// ready for use.
type Sender struct {
	hosts sync.Map // by the URL's Host, if a connection to it was given up: its *host
}

// A host has had a connection to it given up.
type host struct {
	mu    sync.Mutex
	since time.Time     // when the last connection was given up
	idle  chan struct{} // closed once the idle connections are closed; nil after the next request
}

// Send sends req through rt or, if rt is nil, through http.DefaultTransport. As in x/oauth2 that is the
// default transport at the time of the request, because programs and test tools replace it.
//
// If req times out, or its response has status 421, the requests after it get another connection:
//   - The idle connections of rt are closed. This is enough if no other request hangs on the
//     connection.
//   - The next request to the host has Close set. After that request, net/http does not use its
//     connection again, whatever else hangs on it.
//
// If the caller canceled req, nothing is known about its connection, and it is kept.
func (s *Sender) Send(rt http.RoundTripper, req *http.Request) (*http.Response, error) {
	rt = cmp.Or(rt, http.DefaultTransport)
	if h, ok := s.hosts.Load(req.URL.Host); ok {
		if idle := h.(*host).next(); idle != nil {
			select {
			case <-idle:
			case <-req.Context().Done():
			}
			last := *req
			last.Close = true
			req = &last
		}
	}
	res, err := rt.RoundTrip(req)
	if err != nil && timedOut(req.Context(), err) || err == nil && res != nil && res.StatusCode == http.StatusMisdirectedRequest {
		h, _ := s.hosts.LoadOrStore(req.URL.Host, new(host))
		h.(*host).giveUp(rt)
	}
	return res, err
}

// timedOut reports whether a request failed because its time was over. That may be the time of ctx,
// or one of the transport's own, such as its ResponseHeaderTimeout.
func timedOut(ctx context.Context, err error) bool {
	deadline, ok := ctx.Deadline()
	var t interface{ Timeout() bool }
	return ok && !time.Now().Before(deadline) || errors.As(err, &t) && t.Timeout()
}

// next returns nil or, if the next request must set Close, the channel that it must wait for.
func (h *host) next() (idle chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	idle, h.idle = h.idle, nil
	return idle
}

// giveUp gives up a connection of rt.
func (h *host) giveUp(rt http.RoundTripper) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.since.IsZero() && time.Since(h.since) < minPause {
		return
	}
	idle := make(chan struct{})
	h.since, h.idle = time.Now(), idle
	time.AfterFunc(release, func() {
		defer close(idle)
		defer func() { _ = recover() }() // because nobody could handle a panic of rt here
		(&http.Client{Transport: rt}).CloseIdleConnections()
	})
}
