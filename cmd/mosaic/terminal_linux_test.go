package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"example.com/mosaic/mosaictest"
)

// terminal returns a new terminal, and what reads from its screen.
func terminal(t *testing.T) (tty *os.File, screen *bufio.Reader) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ptmx.Close() })
	var locked, number int32
	for request, arg := range map[uintptr]*int32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, ptmx.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return tty, bufio.NewReader(ptmx)
}

func TestATerminalShowsWhenTheTokenExpires(t *testing.T) {
	t.Parallel()
	tty, screen := terminal(t)
	cmd := newCommand(newEnvironment(t, mosaictest.Start(t)), "token")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, tty
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	line, err := screen.ReadString('\n')
	if strings.HasPrefix(line, "mosaic: waiting for ") { // on a busy machine
		line, err = screen.ReadString('\n')
	}
	if !regexp.MustCompile(`^mosaic: the token expires at \S+T\S+, in (1h0m0s|59m\d+s)\r\n$`).MatchString(line) {
		t.Errorf("got %q, %v", line, err)
	}
	if tokenPattern.FindString(out.String()) == "" || strings.Count(out.String(), "\n") != 1 {
		t.Error("standard output is not a token and a newline")
	}
}

func TestATerminalShowsALongWait(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	srv.SetLatency(time.Hour, 0)
	env := newEnvironment(t, srv)
	for args, want := range map[string]string{
		"token":    "waiting for a token of " + env["MOSAIC_ENDPOINT"],
		"claims -": "waiting for a token on standard input",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			tty, screen := terminal(t)
			cmd := newCommand(env, strings.Fields(args)...)
			cmd.Stderr = tty
			input, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer input.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := screen.ReadString('\n')
			if !strings.HasPrefix(line, "mosaic: "+want) {
				t.Errorf("got %q, %v; want %q", line, err, want)
			}
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
}
