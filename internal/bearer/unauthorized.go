package bearer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"example.com/mosaic/internal/refresh"
)

const (
	// The least time between renewals for 401s. Without invalid_token a 401 seldom
	// is for the token.
	pauseInvalid = 10 * time.Second
	pauseOther   = time.Minute

	maxReplayWait = 5 * time.Second // a renewal takes well under one, and somebody waits
	maxHeldBody   = 64 << 10        // a 401 has a line or two
	maxChallenges = 8 << 10         // bytes of all WWW-Authenticate, each with a line
)

// unauthorized handles the 401 to a request with tok: it has tok replaced, and
// sends req once more with the successor if that is safe.
func (t *Transport) unauthorized(source *refresh.Source, tok *refresh.Token, req *http.Request, res *http.Response) (*http.Response, error) {
	invalid, pause := saysInvalidToken(res.Header), pauseOther
	if invalid {
		pause = pauseInvalid
	}
	done, coming := source.Replace(tok, pause)
	if !coming || !(invalid || isRepeatable(req)) || !canRewind(req) {
		return res, nil
	}

	ctx, cancel := context.WithTimeout(req.Context(), maxReplayWait)
	defer cancel()
	if !hold(ctx, res) {
		return res, nil
	}
	select {
	case <-done:
	case <-ctx.Done():
		return res, nil
	}
	next, err := source.Token(ctx)
	if err != nil || next.AccessToken == tok.AccessToken {
		return res, nil
	}
	body := req.Body
	if body != nil && body != http.NoBody {
		if body, err = req.GetBody(); err != nil {
			return res, nil
		}
	}
	return t.sendWith(next, req, body)
}

// challenge matches a parameter of WWW-Authenticate, or a scheme (RFC 9110
// §11.6.1).
var challenge = regexp.MustCompile(`([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*)|([\w-]+)`)

// saysInvalidToken reports whether a 401 is for the token (RFC 6750 §3.1).
func saysInvalidToken(h http.Header) bool {
	rest := maxChallenges
	for _, value := range h["Www-Authenticate"] {
		value = value[:min(len(value), rest)]
		rest -= len(value)
		scheme := ""
		for _, m := range challenge.FindAllStringSubmatch(value, -1) {
			switch {
			case m[3] != "":
				scheme = m[3]
			case strings.EqualFold(scheme, "Bearer") && strings.EqualFold(m[1], "error") && strings.Trim(m[2], `"`) == "invalid_token":
				return true
			}
		}
	}
	return false
}

// isRepeatable reports whether net/http itself would repeat req on a broken
// connection. A 401 to any other may be for a wrong password, and two attempts
// with that can lock a user out.
func isRepeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

func canRewind(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

var errSlowBody = errors.New("mosaic: the body of the 401 did not end in time")

// hold reads res's body into memory, which frees its connection for the renewal.
// It reports whether the body is there whole. If not, it can be read as it came; a
// body that does not end before ctx is closed, and ends in an error.
func hold(ctx context.Context, res *http.Response) bool {
	body := res.Body
	if body == nil {
		return true
	}
	stop := context.AfterFunc(ctx, func() { body.Close() })
	head, err := io.ReadAll(io.LimitReader(body, maxHeldBody+1))
	if inTime := stop(); err == nil && len(head) <= maxHeldBody {
		body.Close()
		res.Body = io.NopCloser(bytes.NewReader(head))
		return true
	} else if !inTime {
		err = errSlowBody
	}
	var rest io.Reader = body
	if err != nil {
		rest = failing{err}
	}
	res.Body = readCloser{io.MultiReader(bytes.NewReader(head), rest), body}
	return false
}

type readCloser struct {
	io.Reader
	io.Closer
}

// failing is a Reader of nothing but an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
