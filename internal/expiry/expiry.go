// Package expiry tells when an access token ends on the local clock.
package expiry

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A lifetime outside these bounds cannot be true. Below a second a source would
// ask in a tight loop; above a year it would believe in a token for ever.
const (
	minLifetime = time.Second
	maxLifetime = 366 * 24 * time.Hour
)

// tolerance is how far Date and iat may lie outside the time between sending and
// receiving before they prove the local clock wrong. Both are whole seconds, and
// well-kept clocks differ by less than one more; a smaller value would take
// their noise for skew, a larger one would leave more skew uncorrected than the
// ten seconds that x/oauth2 and this module keep before a token's end.
const tolerance = 5 * time.Second

// Reply is what is known of a token response.
type Reply struct {
	AccessToken string
	ExpiresIn   time.Duration // not positive: unknown
	Sent        time.Time     // just before the request, on the local clock
	Received    time.Time     // when the reply was there, on the local clock
	Date        time.Time     // the reply's Date header, on the server's clock; zero: none
}

// Of returns when the token ends, on the local clock and without a monotonic
// reading: later than Received, and from one second to 366 days after Sent. It
// returns, too, how long after Sent it has ended on any clock: a difference of
// the clocks that is tolerated makes no token last longer than it says itself.
// An error says why no such times are known.
func Of(r Reply) (end time.Time, life time.Duration, err error) {
	sent, received := r.Sent.Round(0), r.Received.Round(0)
	exp, iat := times(r.AccessToken)
	var lifetime time.Duration // as the token itself has it; zero: unknown
	if !exp.IsZero() && iat.Before(exp) && !iat.IsZero() {
		lifetime = exp.Sub(iat)
	}

	// Does Date say that the clocks agree, or that they do not? Without one,
	// neither is known, and a token that was handed out before has an old iat.
	agree, differ := false, false
	if !r.Date.IsZero() {
		differ = r.Date.Before(sent.Add(-tolerance)) || r.Date.After(received.Add(tolerance))
		agree = !differ
	}
	skewed := differ || iat.After(received.Add(tolerance)) || !exp.After(received)

	var candidates []time.Time // best first
	latest := sent.Add(maxLifetime)
	if !exp.IsZero() {
		if !skewed || agree {
			// Nothing makes the token last longer, whatever expires_in says: it
			// may have been handed out before, and be in its last second.
			latest = exp.Add(tolerance)
		}
		switch {
		case !skewed:
			candidates = append(candidates, exp)
		case !r.Date.IsZero():
			moved := exp.Add(sent.Sub(r.Date))
			if agree && !exp.After(received) {
				// The clocks are a little apart, or the reply took longer than
				// the token lives: Date, rounded down, may hide that it is over.
				moved = moved.Add(-time.Second)
				latest = moved
			}
			if own := sent.Add(lifetime); lifetime > 0 && own.Before(moved) {
				moved = own // it is the Date that is wrong
			}
			candidates = append(candidates, moved)
		}
		if skewed && lifetime > 0 {
			candidates = append(candidates, sent.Add(lifetime))
		}
	}
	if r.ExpiresIn > 0 {
		candidates = append(candidates, sent.Add(r.ExpiresIn))
	}

	for _, end := range candidates {
		if l := end.Sub(sent); l >= minLifetime && l <= maxLifetime && end.After(received) && !end.After(latest) {
			if lifetime > 0 {
				// It may have been minted just before the reply came. Not by the
				// wall clock: that may have been set back meanwhile.
				l = min(l, max(r.Received.Sub(r.Sent), 0)+lifetime)
			}
			return end, l, nil
		}
	}
	if len(candidates) == 0 {
		return time.Time{}, 0, errors.New("the token has no usable exp claim, and the reply no usable expires_in")
	}
	return time.Time{}, 0, fmt.Errorf("the token would end %s after it was asked for, in a reply that took %s: no such lifetime can be true",
		candidates[0].Sub(sent).Round(time.Millisecond), received.Sub(sent).Round(time.Millisecond))
}

// times returns the exp and iat claims of a JWT, zero where there is none that
// is usable. Nothing else of the token is looked at: what its other claims are
// and how it is signed is for Mosaic to judge.
func times(token string) (exp, iat time.Time) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return exp, iat // opaque, or encrypted
	}
	payload, err := jwt.NewParser().DecodeSegment(parts[1])
	if err != nil {
		return exp, iat
	}
	var claims map[string]json.RawMessage // a struct's fields would match "EXP" too
	if json.Unmarshal(payload, &claims) != nil {
		return exp, iat
	}
	return numericDate(claims["exp"]), numericDate(claims["iat"])
}

// numericDate returns the time of a NumericDate (RFC 7519 §2) in whole seconds,
// rounded down; zero for what is none, or lies outside the years 1970 to 9999.
func numericDate(raw json.RawMessage) time.Time {
	var seconds float64
	if json.Unmarshal(raw, &seconds) != nil || seconds <= 0 || seconds >= 253402300800 {
		return time.Time{}
	}
	return time.Unix(int64(math.Floor(seconds)), 0)
}
