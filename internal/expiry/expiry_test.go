package expiry_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/mosaic/internal/expiry"
)

// now is when every request of these tests is sent, half a second past a whole
// one, so that rounding shows.
var now = time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.UTC)

func jwt(payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(payload)) + ".c2ln"
}

// minted returns a token of an hour that was minted so long after now.
func minted(after time.Duration) string {
	iat := now.Add(after).Unix()
	return jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, iat, iat+3600))
}

func TestATokenEndsOnTheLocalClock(t *testing.T) {
	const (
		second = time.Second
		minute = time.Minute
		hour   = time.Hour
		half   = 500 * time.Millisecond
	)
	exp := func(after time.Duration) string { return jwt(fmt.Sprintf(`{"exp":%d}`, now.Add(after).Unix())) }
	times := func(iat, exp time.Duration) string {
		return jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Add(iat).Unix(), now.Add(exp).Unix()))
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
		{"no exp", jwt(`{"iat":1}`), hour, 0, 0, hour},
		{"opaque", "opaque", hour, 0, 0, hour},
		{"opaque, of three parts", "a.b.c", hour, 0, 0, hour},
		{"opaque, on a clock that is off", "opaque", hour, 3 * hour, 0, hour},
		{"encrypted", "eyJhIjoxfQ.e30.e30.e30.e30", hour, 0, 0, hour},
		{"a payload that is no object", jwt(`[1]`), hour, 0, 0, hour},
		{"an algorithm that nobody knows", strings.Replace(minted(0), "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9", "eyJhbGciOiJYWTk5OSJ9", 1), minute, 0, 0, hour - half},
		{"aud a number, nbf a string", jwt(fmt.Sprintf(`{"aud":7,"nbf":"x","exp":%d}`, now.Add(hour).Unix())), minute, 0, 0, hour - half},
		{"EXP is another claim", jwt(fmt.Sprintf(`{"EXP":%d}`, now.Add(hour).Unix())), minute, 0, 0, minute},

		// Where the clock is off, the half second that exp is rounded by is in Date, too.
		{"a clock 5 s behind", minted(5 * second), 0, 5 * second, 0, hour + 5*second - half},
		{"a clock 6 s behind", minted(6 * second), 0, 6 * second, 0, hour},
		{"a clock 4 s ahead", minted(-4 * second), 0, -4 * second, 0, hour - 4*second - half},
		{"a clock 7 s ahead", minted(-7 * second), 0, -7 * second, 0, hour},
		{"a clock 3 min behind", minted(3 * minute), 0, 3 * minute, 0, hour},
		{"a clock 3 min ahead", minted(-3 * minute), 0, -3 * minute, 0, hour},
		{"a clock 25 h behind", minted(25 * hour), 0, 25 * hour, 0, hour},
		{"a clock 25 h ahead", minted(-25 * hour), 0, -25 * hour, 0, hour},
		{"a clock 3 min behind, no Date", minted(3 * minute), 0, none, 0, hour},
		{"a clock 3 min ahead, no Date", minted(-3 * minute), 0, none, 0, 57*minute - half},
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
		{"exp at the next whole second, full expires_in", minted(-hour + second), hour, 0, 0, 0},
		{"exp at the next whole second, remaining expires_in", minted(-hour + second), second, 0, 0, second},
		{"exp long past, by a Date that agrees", minted(-2 * hour), hour, 0, 0, 0},
		{"exp long past, and no Date", minted(-2 * hour), hour, none, 0, hour},
		{"a reply that took longer than the token lives", times(0, 2*second), 2 * second, 0, 3 * half, 0},
		{"a token of 4 s, on a clock 4 s ahead", times(-4*second, 0), 4 * second, -4 * second, 0, 3 * second},
		{"exp at the next whole second but one", exp(2 * second), 0, 0, 0, 3 * half},
		{"a lifetime of a second", jwt(fmt.Sprintf(`{"exp":%d}`, now.Unix()+1)), second, 0, 0, second},
		{"exp of 0", jwt(`{"exp":0}`), minute, 0, 0, minute},
		{"exp of -1", jwt(`{"exp":-1}`), minute, 0, 0, minute},
		{"exp of 1e300", jwt(`{"exp":1e300}`), minute, 0, 0, minute},
		{"exp a string", jwt(`{"exp":"1772370000"}`), minute, 0, 0, minute},
		{"exp null", jwt(`{"exp":null}`), minute, 0, 0, minute},
		{"exp a fraction", jwt(fmt.Sprintf(`{"exp":%d.9}`, now.Add(hour).Unix())), 0, 0, 0, hour - half},
		{"exp in a thousand years", exp(292 * 365 * 24 * hour), minute, 0, 0, minute},
		{"exp in 366 days", exp(366 * 24 * hour), 0, 0, 0, 366*24*hour - half},
		{"exp in 367 days", exp(367 * 24 * hour), 0, 0, 0, 0},
		{"iat after exp, on a clock that is behind", times(2*hour, hour), minute, 10 * second, 0, hour - 10*second},
		{"iat not a number", jwt(fmt.Sprintf(`{"iat":"x","exp":%d}`, now.Add(hour).Unix())), 0, 0, 0, hour - half},

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
			if err == nil && (life > end.Sub(now) || life <= tt.took) {
				t.Errorf("got a life of %s from sending; want no more than to its end %s after, and some from the reply on", life, end.Sub(now))
			}
			switch got := end.Sub(now); {
			case tt.want == 0:
				if err == nil {
					t.Errorf("got an end %s after sending; want an error", got)
				}
			case err != nil:
				t.Errorf("got error %q; want an end %s after sending", err, tt.want)
			case got != tt.want:
				t.Errorf("got an end %s after sending; want %s", got, tt.want)
			}
		})
	}
}

func TestNoDifferenceOfTheClocksMakesATokenLastLonger(t *testing.T) {
	for _, tt := range []struct {
		name       string
		skew, took time.Duration
		want       time.Duration // from sending, of a token of five seconds
	}{
		{"a clock 4 s behind", 4 * time.Second, 0, 5 * time.Second},
		{"a clock 4 s behind, a reply after 3 s", 4 * time.Second, 3 * time.Second, 8 * time.Second},
		{"a clock 3 s ahead", -3 * time.Second, 0, 1500 * time.Millisecond},
		{"a reply 8 s after sending", 8 * time.Second, 8 * time.Second, 12500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			date := now.Add(tt.skew).Truncate(time.Second)
			_, life, err := expiry.Of(expiry.Reply{
				AccessToken: jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, date.Unix(), date.Unix()+5)),
				Sent:        now,
				Received:    now.Add(tt.took),
				Date:        date,
			})
			if err != nil || life != tt.want {
				t.Errorf("got %s and error %v; want %s", life, err, tt.want)
			}
		})
	}
}

func TestAWallClockThatIsSetBackMeanwhileShortensNoLife(t *testing.T) {
	for _, back := range []time.Duration{10 * time.Minute, time.Hour, 2 * time.Hour} {
		received := now.Add(-back)
		_, life, err := expiry.Of(expiry.Reply{
			AccessToken: jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, received.Unix(), received.Unix()+3600)),
			Sent:        now,
			Received:    received,
			Date:        received.Truncate(time.Second),
		})
		if err != nil || life != time.Hour {
			t.Errorf("set back by %s: got a life of %s and error %v; want an hour", back, life, err)
		}
	}
}

func TestExpiryHasNoMonotonicReading(t *testing.T) {
	sent := time.Now()
	end, _, err := expiry.Of(expiry.Reply{AccessToken: "opaque", ExpiresIn: time.Hour, Sent: sent, Received: sent})
	if err != nil {
		t.Fatal(err)
	}
	if end != end.Round(0) {
		t.Errorf("got %v; want no monotonic reading", end)
	}
}

func TestErrorsSayWhatIsMissing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reply expiry.Reply
		want  string
	}{
		{"nothing usable", expiry.Reply{AccessToken: "opaque", Sent: now, Received: now},
			"the token has no usable exp claim, and the reply no usable expires_in"},
		{"too short", expiry.Reply{AccessToken: "opaque", ExpiresIn: 5 * time.Second, Sent: now, Received: now.Add(8 * time.Second)},
			"the token would end 5s after it was asked for, in a reply that took 8s: no such lifetime can be true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := expiry.Of(tt.reply); err == nil || err.Error() != tt.want {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}

// FuzzOf holds that whatever a token says, the result is an error or a time that
// is not over yet and lies within 366 days.
func FuzzOf(f *testing.F) {
	f.Add(minted(0), int64(3600), int64(0), int64(0))
	f.Add("opaque", int64(3600), int64(-7200), int64(8))
	f.Add(jwt(`{"exp":1e300,"iat":-1e300}`), int64(1), int64(1), int64(1))
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
