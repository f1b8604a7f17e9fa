//go:build unix

package files_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/mosaic/internal/files"
)

func TestAFIFOWithoutAWriterBlocksNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Secret(path); err == nil || !strings.Contains(err.Error(), path+`": not a regular file`) {
		t.Errorf("got error %v; want one that names the file", err)
	}
}
