package network

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The plot's measures, in pixels.
const (
	plotTotal = 780
	plotLeft  = 88  // of the rows; the names stand left of it
	plotRight = 670 // of the rows; the counts stand right of it
	rowHeight = 24
	rowPitch  = 30
	firstRow  = 58 // from a panel's top
	panelSize = firstRow + 5*rowPitch + 48
)

func plotX(at time.Duration) int {
	return plotLeft + int((plotRight-plotLeft)*(at-plotFrom)/(plotUntil-plotFrom))
}

// drawServed draws the data as SVG. The page's background may be light or dark, and an image is told
// what the system prefers, not what the page is. So the plot has no background of its own, and its
// colours have about the same contrast to white as to black.
func drawServed(t *testing.T, data string) []byte {
	lines := strings.Split(strings.TrimSpace(data), "\n")
	if len(lines) != 3+len(faults)*plotSteps {
		t.Fatalf("%s has %d lines", servedData, len(lines))
	}
	height := len(faults)*panelSize + 40
	svg := new(bytes.Buffer)
	fmt.Fprintf(svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-labelledby="title">
<title id="title">Calls that each source serves while its connection is dead, and during an outage of the token endpoint</title>
<style>
text { font: 13px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #7d7d7d }
path { fill: #757575 }
.title { font-size: 16px; font-weight: bold }
.mosaic { fill: #2f7fd6; font-weight: bold }
.failed { fill: #d9483b }
.on { fill: #fff; font-size: 12px }
.note { font-size: 11.5px }
.mid { text-anchor: middle }
.end { text-anchor: end }
line { stroke: #7d7d7d }
</style>
`, plotTotal, height)
	for i, f := range faults {
		f.draw(t, svg, i*panelSize, lines[3+i*plotSteps:][:plotSteps])
	}
	fmt.Fprintf(svg, `<text class="note" x="0" y="%d">%d programs for each source, each with a call every %d s and a Timeout of %d s, over connections in memory, on a simulated clock.</text>
<text class="note" x="0" y="%d">%s</text>
</svg>
`, height-24, programs, int(callEvery.Seconds()), int(plotTimeout.Seconds()), height-6, strings.TrimPrefix(lines[0], "# "))
	return svg.Bytes()
}

// draw draws the panel whose top is at y, from its lines of the data.
func (f fault) draw(t *testing.T, svg *bytes.Buffer, y int, lines []string) {
	first := y + firstRow
	last := first + len(plotted)*rowPitch
	fmt.Fprintf(svg, `<text class="title" x="0" y="%d">%s</text>
<text x="0" y="%d">%s</text>
<text class="end" x="%d" y="%d">calls failed, of %s</text>
`, y+18, f.title, y+40, f.remark, plotTotal, y+40, thousands(callsStep*plotSteps))
	for row, name := range plotted {
		y := first + row*rowPitch
		class := strings.ReplaceAll(name, "/", "-")
		var edge strings.Builder // between the calls that are served and those that fail
		failed, lowest, begin, end := 0, callsStep, time.Duration(0), time.Duration(0)
		before := -1
		for step, line := range lines {
			served, err := strconv.Atoi(strings.Split(line, "\t")[2+row])
			if err != nil {
				t.Fatal(err)
			}
			at := plotFrom + time.Duration(step)*plotStep
			failed += callsStep - served
			if served < lowest {
				lowest, begin = served, at
			}
			if served == lowest {
				end = at + plotStep
			}
			if served != before {
				fmt.Fprintf(&edge, "H%dV%d", plotX(at), y+rowHeight-rowHeight*served/callsStep)
			}
			before = served
		}
		if name == "mosaic" && failed > 0 {
			t.Errorf("%d calls of mosaic failed; docs/comparison.md says that it serves all", failed)
		}
		fmt.Fprintf(&edge, "H%d", plotRight)
		fmt.Fprintf(svg, `<text class="end %s" x="%d" y="%d">%s</text>
<path class="%[1]s" d="M%[5]d %[6]d%[7]sV%[6]dZ"/>
<path class="failed" d="M%[5]d %[8]d%[7]sV%[8]dZ"/>
<text class="end %[1]s" x="%[9]d" y="%[3]d">%[10]s</text>
`, class, plotLeft-10, y+17, name, plotLeft, y+rowHeight, &edge, y, plotTotal, thousands(failed))
		x, anchor, text := plotX(end)+8, "start", fmt.Sprintf("down to %d %%", 100*lowest/callsStep)+f.because[name]
		switch {
		case failed == 0:
			x, text = plotX(0)+8, "all calls served"
		case lowest == 0:
			x, anchor, text = plotX((begin+end)/2), "mid", "no call served"
		}
		fmt.Fprintf(svg, `<text class="on %s" x="%d" y="%d">%s</text>`+"\n", anchor, x, y+16, text)
	}
	for at := plotFrom; at <= plotUntil; at += 5 * time.Minute {
		fmt.Fprintf(svg, `<line x1="%d" y1="%d" x2="%[1]d" y2="%[3]d"/><text class="mid" x="%[1]d" y="%[4]d">%g</text>`+"\n",
			plotX(at), last, last+4, last+19, at.Minutes())
	}
	fmt.Fprintf(svg, `<text x="%d" y="%d">minutes</text>`+"\n", plotRight+20, last+19)
}

func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
