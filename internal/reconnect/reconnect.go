// Package reconnect sends HTTP requests, and gives up a connection that has gone silent.
//
// A NAT, a firewall or a failover may forget a connection without notice. net/http drops an
// HTTP/1.1 connection after a request that timed out. But it keeps an HTTP/2 connection, and sends
// all further requests over it, until the kernel gives up after about 15 minutes.
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
	// release is the time that net/http may need to remove a timed-out request from its HTTP/2
	// connection. Only then is the connection idle. We have seen 20 ms.
	release = 50 * time.Millisecond

	// minPause must pass before the next connection to the same host is given up. Without it, a slow
	// server would cost a TLS handshake for each slow reply.
	minPause = 5 * time.Second
)

// A Sender sends the requests of one connection pool. Token requests and API calls need separate
// Senders even if they use the same RoundTripper, because it may keep a pool for each. A Sender is
// safe for concurrent use, and its zero value is ready for use.
type Sender struct {
	hosts sync.Map // maps a URL's Host to its *host, once a connection to it has been given up
}

// A host records when a connection to one host was last given up.
type host struct {
	mu    sync.Mutex
	since time.Time     // when the last connection was given up
	idle  chan struct{} // closed once the idle connections are closed; nil after the next request
}

// Send sends req through rt or, if rt is nil, through http.DefaultTransport. As in x/oauth2, this is
// the value of http.DefaultTransport at the time of the request, because programs and test tools
// replace it.
//
// If req times out, or its response has status 421, later requests get a new connection:
//   - The idle connections of rt are closed. This is enough if no other request is still waiting on
//     the connection.
//   - The next request to the host has Close set. After that request, net/http does not use its
//     connection again, even if other requests are still waiting on it.
//
// If the caller canceled req, nothing is known about the connection, so the connection is kept.
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

// timedOut reports whether a request failed because it ran out of time. The limit may be ctx's
// deadline or one of the transport's, such as its ResponseHeaderTimeout.
func timedOut(ctx context.Context, err error) bool {
	deadline, ok := ctx.Deadline()
	var t interface{ Timeout() bool }
	return ok && !time.Now().Before(deadline) || errors.As(err, &t) && t.Timeout()
}

// next returns nil, or the channel that the coming request must wait for before it sets Close.
func (h *host) next() (idle chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	idle, h.idle = h.idle, nil
	return idle
}

// giveUp gives up a connection that rt made.
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
		defer func() { _ = recover() }() // nobody could handle a panic in rt here
		(&http.Client{Transport: rt}).CloseIdleConnections()
	})
}
