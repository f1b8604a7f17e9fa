package network

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/zstd"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// gzhttp before v1.20.4 panics, or its decoders race, if a body is closed while it is read.
func TestTheBodyOfA401IsNeverClosedWhileItIsRead(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	var text bytes.Buffer
	w, err := zstd.NewWriter(&text)
	if err != nil {
		t.Fatal(err)
	}
	for range 400 {
		w.Write([]byte(rand.Text()))
		w.Flush() // a block
	}
	w.Close()
	var refused atomic.Value // the header of the first token
	srv.Handle("/cis/v1/users", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refused.Load() != r.Header.Get("Authorization") {
			return
		}
		w.Header().Set("Content-Encoding", "zstd")
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		for chunk := range slices.Chunk(text.Bytes(), text.Len()/40) {
			w.Write(chunk)
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(250 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	}))
	client := srv.Config().Client(kit.Over(t.Context(), gzhttp.Transport(srv.Client().Transport, gzhttp.TransportEnableZstd(true))))
	url := srv.Endpoint().URL("/cis/v1/users")
	if err := kit.Fetch(client, url, http.StatusOK); err != nil {
		t.Fatal(err)
	}
	refused.Store(srv.APIRequests()[0].Header.Get("Authorization"))
	time.Sleep(10 * time.Second) // a younger token is not renewed
	for range 3 {
		if err := kit.Fetch(client, url, http.StatusOK); err != nil {
			t.Error(err)
		}
	}
}
