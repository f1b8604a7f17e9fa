package network

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic/internal/behaviour/kit"
)

var (
	// The measurement needs a process without other tests, because net/http's HTTP/2 servers share
	// channels, and those of a bubble must not be used outside it.
	measure = flag.Bool("measure", false, "measure docs/served.tsv anew, and draw it; only with -run Plot")
	update  = flag.Bool("update", false, "draw docs/served.svg anew, from docs/served.tsv")
)

const (
	servedData = "../../../docs/served.tsv"
	servedPlot = "../../../docs/served.svg"
)

// The plot in docs/comparison.md has a panel for each fault, and in it a row for each source. Time is
// counted from the fault on.
const (
	plotFrom  = -5 * time.Minute
	plotUntil = 25 * time.Minute
	plotStep  = 15 * time.Second // a line of the data
	plotSteps = int((plotUntil - plotFrom) / plotStep)

	programs  = 60 // for each source
	callEvery = 5 * time.Second
	callsStep = programs * int(plotStep/callEvery) // the calls in a step

	plotTimeout = 10 * time.Second // of the HTTP client
)

var plotted = []string{"mosaic", "x/oauth2", "Google", "AWS", "Azure"}

func TestThePlotShowsWhatWasMeasured(t *testing.T) {
	if *measure {
		write(t, servedData, measureServed(t))
	}
	data, err := os.ReadFile(servedData)
	if err != nil {
		t.Fatal(err)
	}
	svg := drawServed(t, string(data))
	if *measure || *update {
		write(t, servedPlot, svg)
	}
	if got, err := os.ReadFile(servedPlot); err != nil || !bytes.Equal(got, svg) {
		t.Errorf("docs/served.svg is not what docs/served.tsv says (%v): go test ./network -run Plot -update", err)
	}
}

func write(t *testing.T, path string, text []byte) {
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// measureServed runs programs of all sources through both faults. The sources and net/http are as they
// are. Only the clock and the wires are simulated, so a run takes a minute instead of two hours, and
// the load of the machine does not show.
func measureServed(t *testing.T) []byte {
	kit.NoFIPS(t)
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Measured on %s with %s", time.Now().Format(time.DateOnly), runtime.Version())
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t\S*/(x/oauth2|aws-sdk-go-v2|azidentity) (v\S+)$`).FindAllStringSubmatch(string(mod), -1) {
		fmt.Fprintf(&text, ", %s %s", m[1], m[2])
	}
	fmt.Fprintf(&text, "\n# Calls served, of %d in %s.\nfault\tminute\t%s\n", callsStep, plotStep, strings.Join(plotted, "\t"))
	for _, f := range faults {
		synctest.Test(t, func(t *testing.T) {
			served := f.measure(t)
			for step := range plotSteps {
				fmt.Fprintf(&text, "%s\t%g", f.name, (plotFrom + time.Duration(step)*plotStep).Minutes())
				for _, name := range plotted {
					fmt.Fprintf(&text, "\t%d", served[name][step].Load())
				}
				fmt.Fprintln(&text)
			}
		})
	}
	return text.Bytes()
}

// A fault is what happens to the sources in a panel.
type fault struct {
	name          string
	title, remark string
	because       map[string]string // what to add to a source's row
	lifetime      time.Duration     // of tokens
	outage        time.Duration     // of the endpoint; if zero, the connections die instead
}

var faults = []fault{
	{
		name:     "connection",
		title:    "At minute 0 the HTTP/2 connection dies silently",
		remark:   "Tokens live for a minute. After 15 minutes the kernel gives up the connection.",
		because:  map[string]string{"Azure": " until its own HTTP client has pinged in vain"},
		lifetime: time.Minute,
	},
	{
		name:     "outage",
		title:    "From minute 0 to 20 the token endpoint answers 503",
		remark:   "Tokens live for an hour.",
		lifetime: time.Hour,
		outage:   20 * time.Minute,
	},
}

func (f fault) measure(t *testing.T) map[string]*[plotSteps]atomic.Int64 {
	var down atomic.Bool
	issue := issuer(f.lifetime)
	wires := newMemory()
	srv := &httptest.Server{Listener: wires, EnableHTTP2: true, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		issue(w, r)
	})}}
	srv.StartTLS()
	defer srv.Close()

	var nats []*nat
	var wg sync.WaitGroup
	zero := time.Now().Add(f.lifetime - plotFrom) // when the fault begins
	served := make(map[string]*[plotSteps]atomic.Int64)
	for name, source := range peers(t, srv.URL) {
		served[name] = new([plotSteps]atomic.Int64)
		for i := range programs {
			n := &nat{via: wires.dial}
			nats = append(nats, n)
			transport := srv.Client().Transport.(*http.Transport).Clone()
			transport.DialContext = n.dial
			transport.IdleConnTimeout = 90 * time.Second // as in http.DefaultTransport
			if name == "Azure" {                         // as in its own
				transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
			}
			src := source(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: plotTimeout}))
			wg.Go(func() {
				defer transport.CloseIdleConnections()
				// The programs' tokens end one after the other.
				time.Sleep(time.Duration(i) * f.lifetime / programs)
				run(src, zero, served[name])
			})
		}
	}
	time.Sleep(time.Until(zero))
	if f.outage == 0 {
		for _, n := range nats {
			n.forget()
		}
	} else {
		down.Store(true)
		time.Sleep(f.outage)
		down.Store(false)
	}
	wg.Wait()
	for _, n := range nats {
		for _, c := range n.conns {
			c.Close()
		}
	}
	return served
}

// run is a program that wants a token at each tick. While it waits for one, it misses ticks.
func run(src oauth2.TokenSource, zero time.Time, served *[plotSteps]atomic.Int64) {
	for tick := time.Now().Truncate(callEvery).Add(callEvery / 2); tick.Before(zero.Add(plotUntil)); tick = tick.Add(callEvery) {
		if time.Now().After(tick) {
			continue
		}
		time.Sleep(time.Until(tick))
		if _, err := src.Token(); err == nil && !tick.Before(zero.Add(plotFrom)) {
			served[int(tick.Sub(zero.Add(plotFrom))/plotStep)].Add(1)
		}
	}
}

// A memory is a listener whose connections need no socket.
type memory struct {
	conns chan net.Conn
	done  context.Context
	end   context.CancelFunc
}

func newMemory() *memory {
	done, end := context.WithCancel(context.Background())
	return &memory{make(chan net.Conn), done, end}
}

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.conns <- server:
		return client, nil
	case <-m.done.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done.Done():
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.end()
	return nil
}

func (*memory) Addr() net.Addr { return address("example.com:443") }

type address string

func (a address) Network() string { return "memory" }
func (a address) String() string  { return string(a) }
