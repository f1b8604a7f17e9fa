package guard_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/guard"
)

func TestAHandlerKeepsLevelsAndAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log kit.Log
		l := slog.New(guard.Handler{To: log.Logger(slog.LevelWarn).WithGroup("g").Handler()}).With("a", 1).With("b", 2)
		l.Info("not this")
		l.Warn("this", "c", 3)
		synctest.Wait()
		if got := log.String(); !strings.HasSuffix(got, "level=WARN msg=this g.a=1 g.b=2 g.c=3\n") || strings.Contains(got, "not") {
			t.Errorf("got %q", got)
		}
	})
}
