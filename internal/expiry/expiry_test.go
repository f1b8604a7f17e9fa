package expiry_test

import (
	"strings"
	"testing"
	"time"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/expiry"
)

// now is when every request of these tests is sent, half a second past a whole one, so that rounding
// shows.
var now = time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.UTC)

// minted returns a token of an hour that was minted so long after now.
func minted(after time.Duration) string {
	iat := now.Add(after).Unix()
	return kit.JWT(`{"iat":%d,"exp":%d}`, iat, iat+3600)
}

func TestATokenEndsOnTheLocalClock(t *testing.T) {
	const (
		second = time.Second
		minute = time.Minute
		hour   = time.Hour
		half   = 500 * time.Millisecond
	)
	exp := func(after time.Duration) string { return kit.JWT(`{"exp":%d}`, now.Add(after).Unix()) }
	times := func(iat, exp time.Duration) string {
		return kit.JWT(`{"iat":%d,"exp":%d}`, now.Add(iat).Unix(), now.Add(exp).Unix())
	}
	none := 366 * 24 * hour * 10 // no Date

	for _, tt := range []struct {
		name      string
		token     string
		expiresIn time.Duration
		date      time.Duration // of the server's clock, from now
		took      time.Duration
		want      time.Duration // from now; 0: an error
	}{
		{"exp over a longer expires_in", minted(0), 2 * hour, 0, 0, hour - half},
		{"exp over a shorter expires_in", minted(0), minute, 0, 0, hour - half},
		{"exp alone", exp(hour), 0, none, 0, hour - half},
		{"no exp", kit.JWT(`{"iat":1}`), hour, 0, 0, hour},
		{"opaque", "opaque", hour, 0, 0, hour},
		{"opaque, of three parts", "a.b.c", hour, 0, 0, hour},
		{"a payload that is no object", kit.JWT(`[1]`), hour, 0, 0, hour},
		{"opaque, on a clock that is off", "opaque", hour, 3 * hour, 0, hour},
		{"encrypted", "eyJhIjoxfQ.e30.e30.e30.e30", hour, 0, 0, hour},
		{"an algorithm that nobody knows", strings.Replace(minted(0), "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9", "eyJhbGciOiJYWTk5OSJ9", 1), minute, 0, 0, hour - half},
		{"aud a number, nbf a string", kit.JWT(`{"aud":7,"nbf":"x","exp":%d}`, now.Add(hour).Unix()), minute, 0, 0, hour - half},
		{"EXP is another claim", kit.JWT(`{"EXP":%d}`, now.Add(hour).Unix()), minute, 0, 0, minute},

		// Where the clock is off, the half second that exp is rounded by is in Date, too.
		{"a clock 5 s behind", minted(5 * second), 0, 5 * second, 0, hour + 5*second - half},
		{"a clock 6 s behind", minted(6 * second), 0, 6 * second, 0, hour},
		{"a clock 3 min behind", minted(3 * minute), 0, 3 * minute, 0, hour},
		{"a clock 3 min ahead", minted(-3 * minute), 0, -3 * minute, 0, hour},
		{"a clock 25 h behind", minted(25 * hour), 0, 25 * hour, 0, hour},
		{"a clock 25 h ahead", minted(-25 * hour), 0, -25 * hour, 0, hour},
		{"a clock 25 h behind, no Date", minted(25 * hour), 0, none, 0, hour},
		{"a clock 25 h ahead, no Date", minted(-25 * hour), 0, none, 0, hour},
		{"a clock ahead, neither Date nor iat", exp(-hour), hour, none, 0, hour},

		{"handed out 20 min ago, remaining expires_in", minted(-20 * minute), 40 * minute, 0, 0, 40*minute - half},
		{"handed out 20 min ago, full expires_in", minted(-20 * minute), hour, 0, 0, 40*minute - half},
		{"handed out 20 min ago, on a clock 2 h behind", minted(100 * minute), hour, 2 * hour, 0, 40 * minute},
		{"a reply 8 s after minting", times(0, minute), 0, 0, 8 * second, minute - half},
		{"a slow reply from a clock an hour ahead", minted(hour), 0, hour, 8 * second, hour},

		{"a Date 3 h behind, a proxy's", minted(0), 0, -3 * hour, 0, hour},
		{"a Date 3 h ahead, a proxy's", minted(0), 0, 3 * hour, 0, hour},
		{"a Date 3 h ahead, a proxy's, and no iat", exp(hour), 10 * minute, 3 * hour, 0, 10 * minute},

		{"exp at the next whole second", exp(second), 0, 0, 0, 0},
		{"exp at the next whole second, remaining expires_in", minted(-hour + second), second, 0, 0, 0},
		{"exp at the next whole second, full expires_in", minted(-hour + second), hour, 0, 0, 0},
		{"exp long past, by a Date that agrees", minted(-2 * hour), hour, 0, 0, 0},
		{"exp just past, by a Date that agrees", minted(-hour), 2 * second, 0, 0, 0},
		{"exp at the next whole second, and no Date", minted(-hour + second), hour, none, 0, hour},
		{"iat in the future, by a Date that agrees", minted(hour), hour, 0, 0, hour},
		{"iat in the future, and no Date", minted(hour), hour, none, 0, hour},
		{"iat in the future and after exp, and no Date", times(2*hour, hour), minute, none, 0, minute},
		{"iat in the future and after exp, by a Date that agrees", times(2*hour, hour), minute, 0, 0, hour - half},
		{"exp long past, and no Date", minted(-2 * hour), hour, none, 0, hour},
		{"a reply that took longer than the token lives", times(0, 2*second), 2 * second, 0, 3 * half, 0},
		{"a token of 4 s, on a clock 4 s ahead", times(-4*second, 0), 4 * second, -4 * second, 0, 0},
		{"exp at the next whole second but one", exp(2 * second), 0, 0, 0, 3 * half},
		{"exp of 0", kit.JWT(`{"exp":0}`), minute, 0, 0, minute},
		{"exp of 1e300", kit.JWT(`{"exp":1e300}`), minute, 0, 0, minute},
		{"exp a string", kit.JWT(`{"exp":"1772370000"}`), minute, 0, 0, minute},
		{"exp a fraction", kit.JWT(`{"exp":%d.9}`, now.Add(hour).Unix()), 0, 0, 0, hour - half},
		{"exp in 292 years", exp(292 * 365 * 24 * hour), minute, 0, 0, 0},
		{"exp in 292 years, and no Date", exp(292 * 365 * 24 * hour), minute, none, 0, minute},
		{"exp in 366 days", exp(366 * 24 * hour), 0, 0, 0, 366*24*hour - half},
		{"exp in 367 days", exp(367 * 24 * hour), 0, 0, 0, 0},
		{"iat after exp, on a clock that is behind", times(2*hour, hour), minute, 10 * second, 0, hour - 10*second},

		{"expires_in of half a second", "opaque", half, 0, 0, 0},
		{"expires_in of a second", "opaque", second, 0, 0, second},
		{"expires_in of 366 days", "opaque", 366 * 24 * hour, 0, 0, 366 * 24 * hour},
		{"expires_in of 366 days and a second", "opaque", 366*24*hour + second, 0, 0, 0},
		{"expires_in that is over when the reply is there", "opaque", 5 * second, 0, 8 * second, 0},
		{"a negative expires_in", "opaque", -hour, 0, 0, 0},
		{"nothing usable", "opaque", 0, 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := expiry.Reply{AccessToken: tt.token, ExpiresIn: tt.expiresIn, Sent: now, Received: now.Add(tt.took)}
			if tt.date != none {
				r.Date = now.Add(tt.date).Truncate(time.Second)
			}
			end, life, err := expiry.Of(r)
			if (err == nil) != (tt.want != 0) || err == nil && end.Sub(now) != tt.want {
				t.Errorf("got an end %s after sending, error %v; want %s", end.Sub(now), err, tt.want)
			}
			if err == nil && (life > tt.want || life <= tt.took) {
				t.Errorf("got a life of %s for an end %s after sending; want no more, and some from the reply on", life, tt.want)
			}
		})
	}
}

func TestNoDifferenceOfTheClocksChangesALifetime(t *testing.T) {
	const second, minute, hour = time.Second, time.Minute, time.Hour
	for _, tt := range []struct {
		name       string
		lifetime   time.Duration // exp less iat
		skew, took time.Duration
		want       time.Duration // from sending
	}{
		{"a clock 4 s behind", 5 * second, 4 * second, 0, 5 * second},
		{"a clock 4 s behind, a reply after 3 s", 5 * second, 4 * second, 3 * second, 8 * second},
		{"a clock 3 s ahead", 5 * second, -3 * second, 0, 1500 * time.Millisecond},
		{"a reply 8 s after sending", 5 * second, 8 * second, 8 * second, 12500 * time.Millisecond},
		{"the wall clock is set back by ten minutes", hour, -10 * minute, -10 * minute, hour},
		{"the wall clock is set back by two hours", hour, -2 * hour, -2 * hour, hour},
	} {
		date := now.Add(tt.skew).Truncate(second)
		_, life, err := expiry.Of(expiry.Reply{
			AccessToken: kit.JWT(`{"iat":%d,"exp":%d}`, date.Unix(), date.Add(tt.lifetime).Unix()),
			Sent:        now,
			Received:    now.Add(tt.took),
			Date:        date,
		})
		if err != nil || life != tt.want {
			t.Errorf("%s: got %s and error %v; want %s", tt.name, life, err, tt.want)
		}
	}
}

func TestAnEndHasNoMonotonicReading(t *testing.T) {
	sent := time.Now()
	end, _, err := expiry.Of(expiry.Reply{AccessToken: "opaque", ExpiresIn: time.Hour, Sent: sent, Received: sent})
	if err != nil || end != end.Round(0) {
		t.Errorf("got %v, error %v; want no monotonic reading", end, err)
	}
}

// Whatever a token says, the result is an error or a time after the reply and within 366 days.
func FuzzOf(f *testing.F) {
	f.Add(minted(0), int64(3600), int64(0), int64(0))
	f.Add("opaque", int64(3600), int64(-7200), int64(8))
	f.Add(kit.JWT(`{"exp":1e300,"iat":-1e300}`), int64(1), int64(1), int64(1))
	f.Add(kit.JWT(`{"exp":9300000000,"iat":1}`), int64(time.Hour), int64(0), int64(1)) // more years than a Duration has
	f.Fuzz(func(t *testing.T, token string, expiresIn, date, took int64) {
		r := expiry.Reply{
			AccessToken: token,
			ExpiresIn:   time.Duration(expiresIn),
			Sent:        now,
			Received:    now.Add(time.Duration(took & (1<<36 - 1))), // up to a minute
		}
		if date != 0 {
			r.Date = time.Unix(date, 0)
		}
		end, life, err := expiry.Of(r)
		if err != nil {
			return
		}
		if life > end.Sub(r.Sent) || life <= r.Received.Sub(r.Sent) {
			t.Errorf("got a life of %v for an end at %v and a request from %v to %v", life, end, r.Sent, r.Received)
		}
		if !end.After(r.Received) || end.Before(r.Sent.Add(time.Second)) || end.After(r.Sent.Add(366*24*time.Hour)) {
			t.Errorf("got %v for a request from %v to %v", end, r.Sent, r.Received)
		}
	})
}
