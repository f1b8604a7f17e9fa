package bearer

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A slow Reader ends after a sleep.
type slow struct {
	io.Reader
	sleep time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		time.Sleep(s.sleep)
		synctest.Wait()
	}
	return n, err
}

func TestABodyThatEndsWithItsTimeIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		body := slow{strings.NewReader("refused"), 5 * time.Second}
		res := &http.Response{Request: new(http.Request), Body: io.NopCloser(body)}
		whole := readBody(ctx, res)
		if got, err := io.ReadAll(res.Body); !whole || string(got) != "refused" || err != nil {
			t.Errorf("whole: %t, got %q, %v", whole, got, err)
		}
	})
}
