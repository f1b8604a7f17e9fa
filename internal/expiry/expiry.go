// Package expiry computes when an access token expires by the local clock.
package expiry

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A lifetime outside these bounds cannot be right. With a lifetime below a second, a source would
// send requests in a tight loop. With one above a year, it would trust a token for ever.
const (
	minLifetime = time.Second
	maxLifetime = 366 * 24 * time.Hour
)

// Tolerance is the difference above which Date or iat proves that the local clock is wrong. With a
// smaller tolerance, rounding and delays would pass for a wrong clock. Sources stop using a token ten
// seconds before it expires, and the tolerance should take at most half of that.
const Tolerance = 5 * time.Second

// Reply is the part of a token response from which the token's expiry is computed.
type Reply struct {
	AccessToken string
	ExpiresIn   time.Duration // unknown if it is not positive
	Sent        time.Time     // just before the request, by the local clock
	Received    time.Time     // just after the reply, by the local clock
	Date        time.Time     // the reply's Date header, by the server's clock; zero if there is none
}

// Of returns the token's expiry by the local clock, without a monotonic reading. It is later than
// Received, and from one second to 366 days after Sent. The second result is the token's lifetime,
// measured from Sent as elapsed time, so that a tolerated clock difference does not prolong it. If the
// expiry cannot be determined, the error says why.
func Of(r Reply) (end time.Time, life time.Duration, err error) {
	exp, iat := times(r.AccessToken)
	var lifetime time.Duration // from the token's own claims; zero if unknown
	if !iat.IsZero() && iat.Before(exp) {
		lifetime = exp.Sub(iat)
	}
	sent, received := r.Sent.Round(0), r.Received.Round(0)
	ends := candidates(r, sent, received, exp, iat, lifetime)
	for _, end := range ends {
		life := end.Sub(sent)
		if life < minLifetime || life > maxLifetime || !end.After(received) {
			continue
		}
		if lifetime > 0 {
			// At most one round trip longer than exp − iat, even if the wall clock is set back.
			life = min(life, max(r.Received.Sub(r.Sent), 0)+min(lifetime, maxLifetime))
		}
		return end, life, nil
	}
	if len(ends) == 0 {
		return time.Time{}, 0, errors.New("the token has no usable exp claim, and the reply no usable expires_in")
	}
	return time.Time{}, 0, fmt.Errorf("the token would end at %s, and the reply came at %s: no such lifetime can be true",
		ends[0].UTC().Format(time.RFC3339), received.UTC().Format(time.RFC3339))
}

// candidates returns the token's possible expiries, the best first. If Date agrees with the local
// clock, there is no second candidate, because nothing may make the token last longer than its exp.
func candidates(r Reply, sent, received, exp, iat time.Time, lifetime time.Duration) (ends []time.Time) {
	dated, future := !r.Date.IsZero(), iat.After(received.Add(Tolerance))
	agrees := dated && !r.Date.Before(sent.Add(-Tolerance)) && !r.Date.After(received.Add(Tolerance))
	own, end := sent.Add(lifetime), exp
	if dated && !agrees {
		end = exp.Add(sent.Sub(r.Date))
	}
	if lifetime > 0 && own.Before(end) && (future || dated && !agrees) {
		end = own
	}
	switch {
	case exp.IsZero():
	case agrees:
		return []time.Time{end}
	case dated || !future: // if exp is in the past, the clocks disagree, and the next candidate is used
		ends = append(ends, end)
	}
	if lifetime > 0 {
		ends = append(ends, own)
	}
	if r.ExpiresIn > 0 {
		ends = append(ends, sent.Add(r.ExpiresIn))
	}
	return ends
}

// times returns the exp and iat claims of a JWT. An unusable claim is returned as zero. The other
// claims and the signature are for Mosaic to judge.
func times(token string) (exp, iat time.Time) {
	claims := jwt.MapClaims{} // empty if the token is opaque or encrypted
	_, _, _ = jwt.NewParser().ParseUnverified(token, claims)
	return numericDate(claims["exp"]), numericDate(claims["iat"])
}

// numericDate returns the time of a NumericDate (RFC 7519 §2), rounded down to the second. It is
// zero outside the years 1970 to 9999.
func numericDate(claim any) time.Time {
	seconds, _ := claim.(float64)
	if seconds <= 0 || seconds >= 253402300800 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}
