// Command quickstart gets an access token from Mosaic, prints what is known of
// it, and calls two of Mosaic's services with one HTTP client.
//
// With MOSAIC_CLIENT_ID, MOSAIC_CLIENT_SECRET and MOSAIC_ENDPOINT (a region such
// as "eu", or a custom domain) in the environment it goes to that Mosaic, and
// with MOSAIC_RESOURCE too, the token that it prints is for that resource. With
// none of them it starts a stand-in on this machine.
//
// It exits with status 1, and a line that says what to do, if the environment is
// set by half or Mosaic refuses the credentials.
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

// run is the program, and returns its exit status. The HTTP client is that of
// ctx, if it carries one under oauth2.HTTPClient.
func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) int {
	conf, err := fromEnvironment(getenv)
	if err == nil && conf == nil {
		srv := mosaictest.NewServer()
		defer srv.Close()
		conf, ctx = srv.Config(), srv.Context(ctx)
		fmt.Fprintf(stdout, "The environment has no MOSAIC_CLIENT_ID: this is a stand-in for Mosaic on this machine.\n\n")
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

// fromEnvironment returns the Config that the environment holds, or nil if it
// holds nothing of one.
func fromEnvironment(getenv func(string) string) (*mosaic.Config, error) {
	conf := &mosaic.Config{
		ClientID:     getenv("MOSAIC_CLIENT_ID"),
		ClientSecret: getenv("MOSAIC_CLIENT_SECRET"),
		Resource:     mosaic.Resource(getenv("MOSAIC_RESOURCE")),
	}
	endpoint := getenv("MOSAIC_ENDPOINT")
	if conf.ClientID == "" && conf.ClientSecret == "" && endpoint == "" && conf.Resource == "" {
		return nil, nil
	}

	var missing []string
	for _, v := range []struct{ name, value string }{
		{"MOSAIC_CLIENT_ID", conf.ClientID},
		{"MOSAIC_CLIENT_SECRET", conf.ClientSecret},
		{"MOSAIC_ENDPOINT", endpoint},
	} {
		if v.value == "" {
			missing = append(missing, v.name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("set %s too, or unset all of MOSAIC_* to use the stand-in", strings.Join(missing, " and "))
	}
	var err error
	if conf.Endpoint, err = mosaic.ParseEndpoint(endpoint); err != nil {
		return nil, fmt.Errorf("MOSAIC_ENDPOINT: %w", err)
	}
	return conf, conf.Validate()
}

// show does the main job: a token, and API calls.
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
	all.Resource = "" // each request gets the token that its path asks for
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

// get returns what a person wants to know of the answer to a request: the
// status, and from the stand-in, which tells, the audience of the token that
// arrived. A status other than 401 means that the token was accepted.
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
