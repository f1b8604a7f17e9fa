// Package network tests package mosaic over real networks: behind nginx and HAProxy, which end TLS in
// front of mosaictest and of oidc-provider, through the proxies squid and tinyproxy, and over
// connections that die silently.
//
// The tests start and end the programs. If a program is missing, its tests are skipped.
package network

import (
	"bytes"
	"crypto/tls"
	"embed"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/template"
	"time"

	"example.com/mosaic/mosaictest"
)

func TestMain(m *testing.M) {
	flag.Set("test.parallel", "16") // the tests wait for time to pass, not for a processor
	os.Exit(m.Run())
}

// versions are HTTP's, by name.
var versions = map[string]func(*http.Protocols, bool){"HTTP/1.1": (*http.Protocols).SetHTTP1, "HTTP/2": (*http.Protocols).SetHTTP2}

// speaking returns a transport that trusts srv and speaks this version only.
func speaking(t testing.TB, version string, srv *mosaictest.Server) *http.Transport {
	base := srv.Client().Transport.(*http.Transport)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: base.TLSClientConfig.RootCAs}, Protocols: new(http.Protocols)}
	versions[version](transport.Protocols, true)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

const nobody = 65534

//go:embed testdata
var configs embed.FS

// A program is nginx, haproxy, squid or tinyproxy, and runs until its test ends.
type program struct {
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs a program in a folder with files. Its configuration is the template testdata/config,
// which is executed with settings, the Port to listen on, the Dir and the User. In args "PORT" stands
// for the port.
func start(t testing.TB, name, config, args string, files map[string][]byte, settings map[string]any) *program {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name) // not in the PATH of every user
	}
	if err != nil {
		reason := name + " is missing: apt-get install nginx haproxy squid tinyproxy"
		fmt.Println("SKIPPED:", reason) // t.Skip's reason needs -v
		t.Skip(reason)
	}
	own, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{dir: t.TempDir(), port: freePort(t), done: make(chan struct{})}
	settings = maps.Clone(settings)
	settings["Dir"], settings["Port"], settings["User"] = p.dir, p.port, own.Username
	var text bytes.Buffer
	if err := template.Must(template.ParseFS(configs, "testdata/"+config)).Execute(&text, settings); err != nil {
		t.Fatal(err)
	}
	p.write(t, config, text.Bytes())
	for name, data := range files {
		p.write(t, name, data)
	}
	p.cmd = exec.Command(path, strings.Fields(strings.ReplaceAll(args, "PORT", strconv.Itoa(p.port)))...)
	p.cmd.Dir = p.dir
	p.cmd.Stdout, p.cmd.Stderr = t.Output(), t.Output()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with its workers
	if name == "squid" && os.Getuid() == 0 {                // which refuses to be root
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		if err := os.Chmod(filepath.Dir(p.dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
		}
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // and the workers, if they hang
		<-p.done
	})
	for range 600 {
		conn, err := net.Dial("tcp", p.address())
		if err == nil {
			conn.Close()
			return p
		}
		select {
		case <-p.done:
			t.Fatalf("%s has ended: %v", name, p.cmd.ProcessState)
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen", name)
	return nil
}

func (p *program) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

func (p *program) write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

var lastPort atomic.Int32

func init() { lastPort.Store(rand.Int32N(10_000)) }

// freePort returns a port below those that the kernel gives to clients.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 20_000 + int(lastPort.Add(1)%10_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// underLoad calls f from several goroutines, again and again, as long as during runs. f must not
// fail.
func underLoad(t *testing.T, f func() error, during func()) {
	t.Helper()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				if err := f(); err != nil {
					t.Errorf("call %d failed: %v", n, err)
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	during()
	close(stop)
	wg.Wait()
}
