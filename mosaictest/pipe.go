package mosaictest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// A pipeListener connects clients to a server without a socket.
type pipeListener struct {
	addr   pipeAddr
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newPipeListener(addr string) *pipeListener {
	return &pipeListener{addr: pipeAddr(addr), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// dial is the DialContext of an http.Transport.
func (l *pipeListener) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if addr != string(l.addr) && !strings.HasSuffix(addr, "."+string(l.addr)) {
		return nil, fmt.Errorf("mosaictest: the client of an in-memory server cannot reach %s, only %s, its subdomains and the names set by Server.ServeAs", addr, l.addr)
	}
	client, server := pipe(l.addr)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, fmt.Errorf("mosaictest: the server at %s is closed", l.addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.addr }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

// pipe is like net.Pipe, but has a buffer, so a write never waits for the reader.
//
// With net.Pipe, a bubble can hang. If a client has left a response body open, closing the server's
// TLS connection waits up to five seconds for the client to read. httptest.Server holds a lock while
// it closes the connection. If another goroutine waits for that lock, the bubble's clock stops, and
// the five seconds never pass.
func pipe(addr pipeAddr) (client, server *pipeConn) {
	changed := sync.NewCond(new(sync.Mutex))
	client = &pipeConn{addr: addr, changed: changed}
	server = &pipeConn{addr: addr, changed: changed, peer: client}
	client.peer = server
	return client, server
}

type pipeConn struct {
	addr pipeAddr
	peer *pipeConn

	changed  *sync.Cond // shared by both ends; its lock guards the fields below
	received []byte     // but not yet read
	deadline time.Time  // for reads; if zero, there is none
	closed   bool
}

func (c *pipeConn) Read(p []byte) (int, error) {
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(c.received) > 0:
			n := copy(p, c.received)
			c.received = c.received[n:]
			return n, nil
		case c.peer.closed:
			return 0, io.EOF
		}
		c.changed.Wait()
	}
}

func (c *pipeConn) Write(p []byte) (int, error) {
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	if c.closed || c.peer.closed {
		return 0, io.ErrClosedPipe
	}
	c.peer.received = append(c.peer.received, p...)
	c.changed.Broadcast()
	return len(p), nil
}

func (c *pipeConn) Close() error {
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr                { return c.addr }
func (c *pipeConn) RemoteAddr() net.Addr               { return c.addr }
func (c *pipeConn) SetDeadline(t time.Time) error      { return c.SetReadDeadline(t) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return nil } // a write never waits

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	c.deadline = t
	if d := time.Until(t); d > 0 {
		time.AfterFunc(d, func() {
			c.changed.L.Lock() // otherwise a reader that is about to wait would miss the Broadcast
			defer c.changed.L.Unlock()
			c.changed.Broadcast()
		})
	}
	c.changed.Broadcast()
	return nil
}
