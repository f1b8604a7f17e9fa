package grant

import (
	"cmp"
	"crypto/tls"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"example.com/mosaic/internal/mtls"
)

// A stage is how far a request has come. The name says what was missing ("no TLS handshake in time")
// and the hint what to do if the request fails at this stage.
type stage struct{ name, hint string }

// The stages in the order in which a request goes through them. A request that gets an existing
// connection goes from waiting to replying.
var (
	waiting    = &stage{"connection", hintReach} // or freeConnection
	dialing    = &stage{"connection", hintReach} // with the lookup of the name
	connecting = &stage{"reply of the proxy", hintProxy}
	handshake  = &stage{"TLS handshake", hintHandshake}
	replying   = &stage{"reply", hintFault}

	// freeConnection takes the place of waiting if the transport's MaxConnsPerHost may be the reason.
	// This is not certain, because only net.Dialer reports a dial.
	freeConnection = &stage{"free connection", hintMaxConns}

	// unknown is the stage if the RoundTripper is not net/http's, and reports nothing.
	unknown = &stage{name: "reply"}
)

// A progress follows one request through the hooks of httptrace. Several goroutines may call the
// hooks, and those of a dial may do so even after the request has ended.
type progress struct {
	stage atomic.Pointer[stage]
	fresh atomic.Bool // the request is the first one on its connection
}

func (p *progress) trace() *httptrace.ClientTrace {
	// A late dial does not take the request back from a connection that it got in the meantime.
	advance := func(to *stage, from ...*stage) {
		for _, s := range from {
			p.stage.CompareAndSwap(s, to)
		}
	}
	return &httptrace.ClientTrace{
		GetConn:      func(string) { p.stage.Store(waiting) },
		DNSStart:     func(httptrace.DNSStartInfo) { advance(dialing, waiting) },
		ConnectStart: func(string, string) { advance(dialing, waiting) },
		// A direct connection begins its handshake at once. So if a connected request fails before
		// that, it waited for a proxy.
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				advance(connecting, waiting, dialing)
			}
		},
		TLSHandshakeStart: func() { advance(handshake, waiting, dialing, connecting) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				advance(connecting, handshake) // of an https proxy; otherwise GotConn follows at once
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
	if t, ok := rt.(*http.Transport); ok && s == waiting && t.MaxConnsPerHost > 0 {
		return freeConnection
	}
	return s
}
