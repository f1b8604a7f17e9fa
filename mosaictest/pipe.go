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

// A pipeListener connects dialers and a server without a socket.
type pipeListener struct {
	addr   pipeAddr
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newPipeListener(addr string) *pipeListener {
	return &pipeListener{addr: pipeAddr(addr), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// dial is an http.Transport's DialContext.
func (l *pipeListener) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if addr != string(l.addr) && !strings.HasSuffix(addr, "."+string(l.addr)) {
		return nil, fmt.Errorf("mosaictest: an in-memory server's client reaches %s and its subdomains only, not %s: see Server.ServeAs", l.addr, addr)
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

// pipe is net.Pipe with a buffer: a write never waits for its reader. With net.Pipe, closing a TLS
// connection waits up to five seconds for a client that has stopped reading, with a response body
// left open. httptest closes with a lock held, others wait for this lock, and a wait for a lock
// stops a bubble's clock: the five seconds never pass.
func pipe(addr pipeAddr) (client, server net.Conn) {
	up, down := newStream(), newStream()
	return &pipeConn{addr, down, up}, &pipeConn{addr, up, down}
}

type pipeConn struct {
	addr    pipeAddr
	in, out *stream
}

func (c *pipeConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *pipeConn) Close() error {
	c.in.end(true)
	c.out.end(false)
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr                { return c.addr }
func (c *pipeConn) RemoteAddr() net.Addr               { return c.addr }
func (c *pipeConn) SetDeadline(t time.Time) error      { return c.SetReadDeadline(t) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return nil } // a write does not wait

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(t)
	return nil
}

// A stream is one direction of a pipe.
type stream struct {
	mu       sync.Mutex
	changed  sync.Cond // on mu: anything below
	buf      []byte
	unread   bool      // the reader has closed its side
	ended    bool      // the writer has: buf is the last
	deadline time.Time // of the reader; zero: none
}

func newStream() *stream {
	s := new(stream)
	s.changed.L = &s.mu
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.unread:
			return 0, net.ErrClosed
		case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(p, s.buf)
			s.buf = s.buf[n:]
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unread || s.ended {
		return 0, io.ErrClosedPipe
	}
	s.buf = append(s.buf, p...)
	s.changed.Broadcast()
	return len(p), nil
}

func (s *stream) end(byReader bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if byReader {
		s.unread, s.buf = true, nil
	} else {
		s.ended = true
	}
	s.changed.Broadcast()
}

func (s *stream) setDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	if d := time.Until(t); d > 0 {
		time.AfterFunc(d, s.changed.Broadcast)
	}
	s.changed.Broadcast()
}
