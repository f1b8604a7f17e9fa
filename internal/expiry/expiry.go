// Package expiry computes when an access token ends on the local clock.
package expiry

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A lifetime outside these bounds cannot be true. Below a second a source would ask in a tight
// loop; above a year it would believe in a token for ever.
const (
	minLifetime = time.Second
	maxLifetime = 366 * 24 * time.Hour
)

// Tolerance is the difference above which Date or iat proves the local clock wrong. Less would take
// rounding and delays for skew. More would exceed half of the ten seconds that a source keeps before
// a token's end.
const Tolerance = 5 * time.Second

// Reply is the part of a token response that tells the token's end.
type Reply struct {
	AccessToken string
	ExpiresIn   time.Duration // not positive: unknown
	Sent        time.Time     // just before the request, on the local clock
	Received    time.Time     // with the reply, on the local clock
	Date        time.Time     // the reply's Date header, on the server's clock; zero: none
}

// Of returns the end of the token on the local clock, without a monotonic reading: later than
// Received, and from one second to 366 days after Sent. It also returns the lifetime from Sent, by
// the elapsed time: a tolerated difference of the clocks does not prolong it. The error says why
// neither is known.
func Of(r Reply) (end time.Time, life time.Duration, err error) {
	exp, iat := times(r.AccessToken)
	var lifetime time.Duration // by the token itself; zero: unknown
	if !iat.IsZero() && iat.Before(exp) {
		lifetime = exp.Sub(iat)
	}
	sent, received := r.Sent.Round(0), r.Received.Round(0)
	ends, latest := candidates(r, sent, received, exp, iat, lifetime)
	for _, end := range ends {
		life := end.Sub(sent)
		if life < minLifetime || life > maxLifetime || !end.After(received) || end.After(latest) {
			continue
		}
		if lifetime > 0 {
			// At most one round trip longer than exp − iat, even if the wall clock is set back.
			life = min(life, max(r.Received.Sub(r.Sent), 0)+lifetime)
		}
		return end, life, nil
	}
	if len(ends) == 0 {
		return time.Time{}, 0, errors.New("the token has no usable exp claim, and the reply no usable expires_in")
	}
	return time.Time{}, 0, fmt.Errorf("the token would end %s after the request, in a reply that took %s: no such lifetime can be true",
		ends[0].Sub(sent).Round(time.Millisecond), received.Sub(sent).Round(time.Millisecond))
}

// candidates returns the possible ends of the token, the best first, and the latest end to accept.
func candidates(r Reply, sent, received, exp, iat time.Time, lifetime time.Duration) (ends []time.Time, latest time.Time) {
	latest = sent.Add(maxLifetime)
	differ := !r.Date.IsZero() && (r.Date.Before(sent.Add(-Tolerance)) || r.Date.After(received.Add(Tolerance)))
	over := !exp.After(received)
	switch {
	case exp.IsZero():
	case !over && !iat.After(received.Add(Tolerance)) && !differ: // the clocks agree
		ends, latest = append(ends, exp), exp.Add(Tolerance)
	case !r.Date.IsZero():
		moved := exp.Add(sent.Sub(r.Date))
		if !differ {
			latest = exp.Add(Tolerance)
			if over { // Date, rounded down, may hide that the token has ended
				moved = moved.Add(-time.Second)
				latest = moved
			}
		}
		if own := sent.Add(lifetime); lifetime > 0 && own.Before(moved) { // the Date is wrong
			moved = own
		}
		ends = append(ends, moved)
		fallthrough
	default:
		if lifetime > 0 {
			ends = append(ends, sent.Add(lifetime))
		}
	}
	if r.ExpiresIn > 0 {
		ends = append(ends, sent.Add(r.ExpiresIn))
	}
	return ends, latest
}

// times returns the exp and iat claims of a JWT, zero if there is no usable one. Other claims and
// the signature are Mosaic's to judge.
func times(token string) (exp, iat time.Time) {
	claims := jwt.MapClaims{} // empty if the token is opaque or encrypted
	_, _, _ = jwt.NewParser().ParseUnverified(token, claims)
	return numericDate(claims["exp"]), numericDate(claims["iat"])
}

// numericDate returns the time of a NumericDate (RFC 7519 §2), rounded down to the second; zero
// outside the years 1970 to 9999.
func numericDate(claim any) time.Time {
	seconds, _ := claim.(float64)
	if seconds <= 0 || seconds >= 253402300800 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}
