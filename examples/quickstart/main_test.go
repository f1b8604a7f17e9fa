package main

import (
	"context"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"example.com/mosaic"
	"example.com/mosaic/mosaictest"
)

// quickstart runs the program, and fails t if a token or the secret is in its output.
func quickstart(t testing.TB, ctx context.Context, env map[string]string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	status = run(ctx, func(name string) string { return env[name] }, &out, &errs)
	for _, text := range []string{out.String(), errs.String()} {
		if regexp.MustCompile(`eyJ[\w-]{10,}`).MatchString(text) {
			t.Fatal("a token is in the output: [found]")
		}
		if secret := env["MOSAIC_CLIENT_SECRET"]; secret != "" && strings.Contains(text, secret) {
			t.Fatal("the secret is in the output: [found]")
		}
	}
	return status, out.String(), errs.String()
}

func environment(srv *mosaictest.Server) map[string]string {
	conf := srv.Config()
	return map[string]string{
		"MOSAIC_CLIENT_ID":     conf.ClientID,
		"MOSAIC_CLIENT_SECRET": conf.ClientSecret,
		"MOSAIC_ENDPOINT":      string(conf.Endpoint),
	}
}

const twoServices = `
One client, two services:
GET /cis/v1/users            200 OK, with a token for "userid-api"
GET /risk/v1/recommendation  200 OK, with a token for "https://risk\.identity\.security"
`

func shown(endpoint, audience string) string {
	return `endpoint     ` + endpoint + `
audience     ` + audience + `
tenant       6oi3tjkijshdfgekwjfwey9
application  Acme \(zl2trg3sanjsd63qs7se\)
permissions  read:user
expires      \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+, in (1h0m0s|59m5\ds)
` + twoServices
}

func TestWithoutAnEnvironmentItRunsAgainstTheStandIn(t *testing.T) {
	status, stdout, stderr := quickstart(t, t.Context(), nil)
	if status != 0 || stderr != "" {
		t.Fatalf("got status %d, stderr %q; want 0 and nothing", status, stderr)
	}
	want := `^The environment has no MOSAIC_ variables: this is a stand-in for Mosaic on this machine\.` +
		"\n\n" + shown(`https://127\.0\.0\.1:\d+`, "userid-api") + "$"
	if !regexp.MustCompile(want).MatchString(stdout) {
		t.Errorf("got\n%s\nwant\n%s", stdout, want)
	}
}

func TestWithAnEnvironmentItGoesThere(t *testing.T) {
	for _, resource := range []string{"", string(mosaic.IdentityVerification)} {
		srv := mosaictest.Start(t)
		env := environment(srv)
		env["MOSAIC_RESOURCE"] = resource
		audience := resource
		if audience == "" {
			audience = "userid-api"
		}

		status, stdout, stderr := quickstart(t, srv.Context(t.Context()), env)
		if status != 0 || stderr != "" {
			t.Fatalf("resource %q: got status %d, stderr %q; want 0 and nothing", resource, status, stderr)
		}
		want := "^" + shown(regexp.QuoteMeta(env["MOSAIC_ENDPOINT"]), regexp.QuoteMeta(audience)) + "$"
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("resource %q: got\n%s\nwant\n%s", resource, stdout, want)
		}
		if n := len(srv.APIRequests()); n != 2 {
			t.Errorf("resource %q: the server saw %d API requests; want 2", resource, n)
		}
	}
}

func TestWhatIsWrongIsOneLineThatSaysWhatToDo(t *testing.T) {
	tests := []struct {
		name   string
		change map[string]string
		want   string
	}{
		{"no ID", map[string]string{"MOSAIC_CLIENT_ID": ""},
			"MOSAIC_CLIENT_ID: ClientID is empty"},
		{"no secret", map[string]string{"MOSAIC_CLIENT_SECRET": ""},
			"MOSAIC_CLIENT_SECRET, MOSAIC_CLIENT_SECRET_FILE, MOSAIC_PRIVATE_KEY_FILE or MOSAIC_CERTIFICATE_FILE: set ClientSecret, PrivateKey or Certificate"},
		{"no endpoint", map[string]string{"MOSAIC_ENDPOINT": ""},
			`MOSAIC_ENDPOINT: endpoint "" is empty`},
		{"a resource alone", map[string]string{"MOSAIC_CLIENT_ID": "", "MOSAIC_CLIENT_SECRET": "", "MOSAIC_ENDPOINT": "", "MOSAIC_RESOURCE": "https://orders.acme.com"},
			"MOSAIC_CLIENT_ID: ClientID is empty"},
		{"an unknown region", map[string]string{"MOSAIC_ENDPOINT": "mars"},
			`MOSAIC_ENDPOINT: endpoint "mars" is not a URL: want "sandbox"`},
		{"a resource that is not a URI", map[string]string{"MOSAIC_RESOURCE": "orders"},
			`MOSAIC_RESOURCE: Resource "orders" is not an absolute URI`},
		{"a resource of nobody", map[string]string{"MOSAIC_RESOURCE": "https://orders.acme.com"},
			`check Resource: "https://orders.acme.com" has to be configured for the application in Mosaic`},
		{"a wrong secret", map[string]string{"MOSAIC_CLIENT_SECRET": "of another environment"},
			"check ClientID and ClientSecret, and that both belong to this Endpoint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := mosaictest.Start(t)
			env := environment(srv)
			maps.Copy(env, tt.change)
			status, stdout, stderr := quickstart(t, srv.Context(t.Context()), env)
			if status != 1 || stdout != "" {
				t.Errorf("got status %d, stdout %q; want 1 and nothing", status, stdout)
			}
			if !strings.HasPrefix(stderr, "quickstart: ") || !strings.Contains(stderr, tt.want) ||
				strings.Index(stderr, "\n") != len(stderr)-1 {
				t.Errorf("got stderr %q; want one line with %q", stderr, tt.want)
			}
		})
	}
}

func TestAServiceThatIsNotConfiguredEndsNothing(t *testing.T) {
	srv := mosaictest.Start(t)
	srv.Handle("GET /cis/v1/users", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		srv.RemoveResource(mosaic.FraudPrevention)
	}))
	status, stdout, stderr := quickstart(t, srv.Context(t.Context()), environment(srv))
	if status != 0 || stderr != "" {
		t.Errorf("got status %d, stderr %q; want 0 and nothing", status, stderr)
	}
	want := `GET /cis/v1/users            200 OK
GET /risk/v1/recommendation  no token: this service is not configured for the application
`
	if !strings.HasSuffix(stdout, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", stdout, want)
	}
}

func TestAnOutageOfAnAPIIsAnError(t *testing.T) {
	srv := mosaictest.Start(t)
	srv.Handle("GET /cis/v1/users", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	status, _, stderr := quickstart(t, srv.Context(t.Context()), environment(srv))
	if status != 1 || !strings.Contains(stderr, "/cis/v1/users") {
		t.Errorf("got status %d, stderr %q; want 1 and the URL", status, stderr)
	}
}
