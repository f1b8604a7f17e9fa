// Command quickstart requests an access token from Mosaic, prints its claims, and calls two services
// with one HTTP client.
//
// It is configured by the environment variables of mosaic.FromEnv, whose names begin with MOSAIC_. If
// none of them is set, it starts a stand-in for Mosaic on this machine, so that it needs no account.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Getenv, os.Stdout, os.Stderr))
}

// run returns the exit status. If ctx has an HTTP client (oauth2.HTTPClient), run uses that client.
func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) int {
	isSet := false
	conf, err := mosaic.FromEnv(func(name string) string {
		value := getenv(name)
		isSet = isSet || value != ""
		return value
	})
	if !isSet {
		srv := mosaictest.NewServer()
		defer srv.Close()
		conf, ctx, err = srv.Config(), srv.Context(ctx), nil
		fmt.Fprintf(stdout, "The environment has no MOSAIC_ variables: this is a stand-in for Mosaic on this machine.\n\n")
	}
	if err == nil {
		err = show(ctx, conf, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "quickstart:", err)
		return 1
	}
	return 0
}

// show requests a token, writes its claims to w, and calls two services.
func show(ctx context.Context, conf *mosaic.Config, w io.Writer) error {
	tok, err := conf.Token(ctx)
	if err != nil {
		return err
	}
	claims, err := mosaic.ParseClaims(tok)
	if err != nil {
		return err
	}
	line := func(name string, values ...string) {
		fmt.Fprintf(w, "%-12s %s\n", name, strings.Join(values, " "))
	}
	line("endpoint", string(conf.Endpoint))
	line("audience", claims.Audience...)
	line("tenant", claims.TenantID)
	line("application", claims.AppName, "("+claims.AppID+")")
	line("permissions", claims.TSPermissions...)
	line("expires", tok.Expiry.Format(time.RFC3339)+",", "in", time.Until(tok.Expiry).Round(time.Second).String())

	all := *conf
	all.Resource = "" // so that each request gets the token for its path
	client := all.Client(ctx)
	fmt.Fprintf(w, "\nOne client, two services:\n")
	for _, path := range []string{"/cis/v1/users", "/risk/v1/recommendation"} {
		answer, err := get(ctx, client, conf.Endpoint.URL(path))
		var refusal *oauth2.RetrieveError
		switch {
		case errors.As(err, &refusal) && refusal.ErrorCode == "invalid_target":
			answer = "no token: this service is not configured for the application"
		case err != nil:
			return err
		}
		fmt.Fprintf(w, "GET %-24s %s\n", path, answer)
	}
	return nil
}

// get returns the status of the response. If the stand-in has sent the response, get adds the audience
// of the token. A status such as 401 or 404 is a result here, not an error.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	var saw struct{ Audience string }
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&saw) == nil && saw.Audience != "" {
		answer += fmt.Sprintf(", with a token for %q", saw.Audience)
	}
	return answer, nil
}
