package behaviour_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// The documents quote the code of this file.

func TestVersionManagementGetsTheDefaultAudiencesToken(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		const host = "version-management.eu.transmitsecurity.io"
		srv.ServeAs("api.eu.transmitsecurity.io", host)
		id, secret, ctx := srv.Config().ClientID, srv.Config().ClientSecret, srv.Context(t.Context())

		conf := &mosaic.Config{
			ClientID:     id,
			ClientSecret: secret,
			Endpoint:     mosaic.EU,
			Hosts:        []string{"version-management.eu.transmitsecurity.io"},
		}
		client := conf.Client(ctx)

		res, err := client.Get("https://" + host + "/version/export/x")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if form := srv.TokenRequests()[0].Form; res.StatusCode != http.StatusOK || form.Has("resource") {
			t.Errorf("got %s after a token request with %v; want 200 and no resource", res.Status, form["resource"])
		}
	})
}

// needsPerson is as in Example_errors, for code that made a type assertion.
func needsPerson(err error) bool {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode == "invalid_client" {
		return true
	}
	return false
}

func TestATypeAssertionDoesNotFindARefusal(t *testing.T) {
	srv := mosaictest.Start(t)
	conf := srv.Config()
	conf.ClientSecret = "wrong secret"
	_, err := conf.Token(srv.Context(t.Context()))
	if _, ok := err.(*oauth2.RetrieveError); ok || !needsPerson(err) || needsPerson(io.EOF) {
		t.Errorf("found by a type assertion: %t, by errors.As: %t; want only the latter", ok, needsPerson(err))
	}
}

// tokenFor returns a token that is valid for another d. Tokens must live for longer than d.
func tokenFor(ctx context.Context, source *mosaic.TokenSource, d time.Duration) (*oauth2.Token, error) {
	tok, err := source.TokenContext(ctx)
	if err == nil && time.Until(tok.Expiry) < d {
		source.Invalidate(tok)
		tok, err = source.TokenContext(ctx)
	}
	return tok, err
}

func TestATokenThatIsValidForAnother5Minutes(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		src := srv.Config().TokenSource(srv.Context(t.Context()))
		first := kit.Promptly(t, src)
		if tok, err := tokenFor(t.Context(), src, 5*time.Minute); err != nil || tok.AccessToken != first.AccessToken {
			t.Errorf("got another token, or error %v; want the token of the source", err)
		}
		srv.Fail(mosaictest.Fault{Status: http.StatusServiceUnavailable})
		time.Sleep(56 * time.Minute) // renewals fail, with pauses of a minute
		srv.Heal()
		if tok := kit.Promptly(t, src); tok.AccessToken != first.AccessToken {
			t.Fatal("the token was renewed; want one that ends soon")
		}
		if tok, err := tokenFor(t.Context(), src, 5*time.Minute); err != nil || time.Until(tok.Expiry) < 5*time.Minute {
			t.Errorf("got a token until %v, error %v; want one for five minutes", tok.Expiry, err)
		}
	})
}

// split sends token requests over tokens, and API calls over apis.
type split struct{ tokens, apis http.RoundTripper }

func (s split) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, "/oidc/token") {
		return s.tokens.RoundTrip(req)
	}
	return s.apis.RoundTrip(req)
}

// CloseIdleConnections lets package mosaic leave a dead connection.
func (s split) CloseIdleConnections() {
	for _, rt := range []http.RoundTripper{s.tokens, s.apis} {
		(&http.Client{Transport: rt}).CloseIdleConnections()
	}
}

func TestTokensAndAPICallsOverDifferentTransports(t *testing.T) {
	srv := mosaictest.Start(t)
	var sent [2]atomic.Int32
	counting := func(i int) http.RoundTripper {
		return kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			sent[i].Add(1)
			return srv.Client().Transport.RoundTrip(req)
		})
	}
	conf, tokenTransport, apiTransport, ctx := srv.Config(), counting(0), counting(1), t.Context()

	base := &http.Client{Transport: split{tokens: tokenTransport, apis: apiTransport}}
	client := conf.Client(context.WithValue(ctx, oauth2.HTTPClient, base))

	for range 2 {
		res, err := client.Get(srv.Endpoint().URL("/cis/v1/users"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	client.CloseIdleConnections()
	if tokens, calls := sent[0].Load(), sent[1].Load(); tokens != 1 || calls != 2 {
		t.Errorf("sent %d token requests and %d calls; want 1 and 2", tokens, calls)
	}
}

func TestTwoServersOfHttptest(t *testing.T) {
	answer := func(contentType, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			fmt.Fprintf(w, body, r.Header.Get("Authorization"))
		})
	}
	tokenHandler := answer("application/json", `{"access_token":"abc%.0s","token_type":"Bearer","expires_in":3600}`)
	apiHandler := answer("text/plain", "%s")

	tokens, api := httptest.NewTLSServer(tokenHandler), httptest.NewTLSServer(apiHandler)
	defer tokens.Close()
	defer api.Close()
	conf := &mosaic.Config{
		ClientID:     "my-client",
		ClientSecret: "a secret of the test",
		Endpoint:     mosaic.Endpoint(tokens.URL),
		Hosts:        []string{api.Listener.Addr().String()},
	}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, tokens.Client())
	res, err := conf.Client(ctx).Get(api.URL + "/cis/v1/users")

	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); string(body) != "Bearer abc" || err != nil {
		t.Errorf("the API saw %q, error %v; want the token", body, err)
	}
}

// trusting returns an HTTP client that trusts the CAs in a PEM file, besides the system's.
func trusting(caPEM []byte) (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("there is no certificate in the PEM file")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	return &http.Client{Transport: transport}, nil
}

func TestAnHTTPClientThatTrustsACA(t *testing.T) {
	if client, err := trusting([]byte("none")); client != nil || err == nil {
		t.Errorf("got a client and error %v; want an error", err)
	}
	srv := mosaictest.Start(t)
	client, err := trusting(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	if _, err := srv.Config().Token(context.WithValue(t.Context(), oauth2.HTTPClient, client)); err != nil {
		t.Error(err)
	}
}

// A mortal connection loses what is written to it once it is dead.
type mortal struct {
	net.Conn
	dead *atomic.Bool
}

func (c mortal) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestHealthChecksEndACallOnADeadConnection(t *testing.T) {
	srv := mosaictest.Start(t)
	conf, ctx := srv.Config(), t.Context()

	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second}
	client := conf.Client(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport}))

	defer transport.CloseIdleConnections()
	transport.HTTP2.SendPingTimeout, transport.HTTP2.PingTimeout = 50*time.Millisecond, 50*time.Millisecond
	transport.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	dead := new(atomic.Bool)
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return mortal{c, dead}, err
	}
	getUsers(t, client, srv)
	dead.Store(true)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.Endpoint().URL("/cis/v1/users"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := client.Do(req); err == nil || ctx.Err() != nil {
		t.Errorf("got %v, error %v; want an error long before the deadline", res, err)
	}
	dead = new(atomic.Bool)
	getUsers(t, client, srv)
}

// firstToken returns nil once Mosaic has given conf a token. It returns an error if Mosaic refuses
// conf, or if ctx ends.
func firstToken(ctx context.Context, conf *mosaic.Config) error {
	for {
		_, err := conf.Token(ctx)
		var refused *oauth2.RetrieveError
		if err == nil || errors.As(err, &refused) && slices.Contains([]int{400, 401, 403}, refused.Response.StatusCode) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func TestTheWaitForASidecar(t *testing.T) {
	kit.Bubble(t, func(t *testing.T, srv *mosaictest.Server) {
		conf, begun := srv.Config(), time.Now()
		ready := begun.Add(10 * time.Second)
		ctx, cancel := context.WithTimeout(kit.Over(t.Context(), kit.RoundTripper(func(req *http.Request) (*http.Response, error) {
			if time.Now().Before(ready) {
				return nil, errors.New("connection refused")
			}
			return srv.Client().Transport.RoundTrip(req)
		})), time.Minute)
		defer cancel()

		srv.FailNext(4, mosaictest.Fault{Status: http.StatusServiceUnavailable}) // the sidecar's own answer
		if err := firstToken(ctx, conf); err != nil || time.Now().Before(ready) {
			t.Errorf("got error %v after %s; want none once the sidecar is ready", err, time.Since(begun))
		}
		conf.ClientSecret = "wrong secret"
		if err := firstToken(ctx, conf); err == nil || ctx.Err() != nil {
			t.Errorf("got error %v; want a refusal at once", cmp.Or(err, ctx.Err()))
		}
		ready = ready.Add(time.Hour)
		if err := firstToken(ctx, conf); err == nil || ctx.Err() == nil {
			t.Errorf("got error %v; want one at the end of the context", err)
		}
	})
}

func TestConfigsThatDifferInASecretLookAlike(t *testing.T) {
	a, b := with(unchanged), with(func(c *mosaic.Config) { c.ClientSecret = "another secret" })
	embedding := struct {
		mosaic.Config
		Name string
	}{*a, "lost"}
	printed, encoded := make(map[string]bool), make(map[string]bool)
	for _, v := range []any{a, b, embedding} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		printed[fmt.Sprint(v)], encoded[string(data)] = true, true
	}
	if len(printed) != 1 || len(encoded) != 1 {
		t.Errorf("printed as %v, encoded as %v; want one text each", printed, encoded)
	}
}
