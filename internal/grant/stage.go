package grant

import (
	"cmp"
	"crypto/tls"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"example.com/mosaic/internal/mtls"
)

// A stage is how far a request has got. Its name says what was missing ("no TLS handshake in
// time"), and its hint says what to do if the request fails at this stage.
type stage struct{ name, hint string }

// The stages in the order in which a request goes through them. A request that gets an existing
// connection goes straight from waiting to replying.
var (
	waiting    = &stage{"connection", hintReach} // or freeConnection
	dialing    = &stage{"connection", hintReach} // including the DNS lookup
	connecting = &stage{"reply of the proxy", hintProxy}
	handshake  = &stage{"TLS handshake", hintHandshake}
	replying   = &stage{"reply", hintFault}

	// freeConnection replaces waiting if the transport's MaxConnsPerHost may be holding the request
	// up. This is a guess: the request may be dialing with a DialContext that, unlike net.Dialer,
	// reports nothing.
	freeConnection = &stage{"free connection", hintMaxConns}

	// unknown is the stage if the RoundTripper is not net/http's and does not call the hooks.
	unknown = &stage{name: "reply"}
)

// A progress follows one request through the hooks of httptrace. Several goroutines may call the
// hooks, and a dial may call them even after the request has ended.
type progress struct {
	stage   atomic.Pointer[stage]
	proxied atomic.Bool // the request goes through a proxy
	fresh   atomic.Bool // the request is the first one on its connection
}

// trace returns the hooks for a request to host.
func (p *progress) trace(host string) *httptrace.ClientTrace {
	// A late dial must not move the stage back if the request has got a different connection since.
	advance := func(to *stage, from ...*stage) {
		for _, s := range from {
			p.stage.CompareAndSwap(s, to)
		}
	}
	return &httptrace.ClientTrace{
		GetConn: func(firstHop string) {
			p.proxied.Store(firstHop != host && firstHop != host+":443")
			p.stage.Store(waiting)
		},
		DNSStart:     func(httptrace.DNSStartInfo) { advance(dialing, waiting) },
		ConnectStart: func(string, string) { advance(dialing, waiting) },
		ConnectDone: func(_, _ string, err error) {
			switch {
			case err != nil:
			case p.proxied.Load():
				advance(connecting, waiting, dialing)
			default: // here already, because a DialTLSContext need not call the hooks of the handshake
				advance(handshake, waiting, dialing)
			}
		},
		TLSHandshakeStart: func() { advance(handshake, waiting, dialing, connecting) },
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			switch {
			case err != nil:
			case p.proxied.Load() && state.NegotiatedProtocol != "h2":
				advance(connecting, handshake) // an https proxy's handshake; after the host's own, GotConn follows at once
			case p.stage.CompareAndSwap(handshake, replying):
				p.fresh.Store(true) // not only in GotConn, because HTTP/2 uses a new connection before that
			}
		},
		GotConn: func(info httptrace.GotConnInfo) {
			p.fresh.Store(!info.Reused)
			p.stage.Store(replying)
		},
	}
}

// reached returns the stage that a request through rt has reached.
func (p *progress) reached(rt http.RoundTripper) *stage {
	if presenting, ok := rt.(*mtls.Transport); ok {
		rt = presenting.Transport
	}
	s := cmp.Or(p.stage.Load(), unknown)
	if t, ok := cmp.Or(rt, http.DefaultTransport).(*http.Transport); ok && s == waiting && t.MaxConnsPerHost > 0 {
		return freeConnection
	}
	return s
}
