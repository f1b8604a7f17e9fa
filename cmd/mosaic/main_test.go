package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/mosaic"
	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/mosaictest"
)

// The tests run their own binary, as the command.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_COMMAND") != "" {
		main()
	}
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	baseEnv = []string{"RUN_AS_COMMAND=1", "GORACE=atexit_sleep_ms=0", "GOCOVERDIR=" + dir}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// baseEnv makes a test binary the command, one that ends at once and is silent about coverage.
var baseEnv []string

type environment map[string]string

// newEnvironment describes srv's client.
func newEnvironment(t *testing.T, srv *mosaictest.Server) environment {
	t.Helper()
	conf := srv.Config()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return environment{
		"MOSAIC_CLIENT_ID":     conf.ClientID,
		"MOSAIC_CLIENT_SECRET": conf.ClientSecret,
		"MOSAIC_ENDPOINT":      string(conf.Endpoint),
		"SSL_CERT_FILE":        kit.File(t, ca),
	}
}

// with returns a copy of e with pairs of names and values set.
func (e environment) with(pairs ...string) environment {
	e = maps.Clone(e)
	for pair := range slices.Chunk(pairs, 2) {
		e[pair[0]] = pair[1]
	}
	return e
}

// withCertificate returns a copy of e with cert, whose key is [kit.EC], and the key in files.
func (e environment) withCertificate(t *testing.T, cert *tls.Certificate) environment {
	t.Helper()
	return e.with("MOSAIC_CERTIFICATE_FILE", kit.File(t, kit.CertificatePEM(cert)), "MOSAIC_CERTIFICATE_KEY_FILE", kit.File(t, kit.KeyPEM(t, kit.EC())))
}

// secrets returns the texts of e that no output may have.
func (e environment) secrets(t *testing.T) (secrets []string) {
	for _, name := range []string{"MOSAIC_CLIENT_SECRET_FILE", "MOSAIC_PRIVATE_KEY_FILE", "MOSAIC_CERTIFICATE_KEY_FILE"} {
		data, err := os.ReadFile(e[name])
		if e[name] != "" && err == nil {
			secrets = append(secrets, strings.Split(string(data), "\n")...)
		}
	}
	return slices.DeleteFunc(append(secrets, e["MOSAIC_CLIENT_SECRET"]), func(s string) bool { return len(s) < 8 })
}

// newCommand returns a call of the command in an environment of nothing else.
func newCommand(env environment, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = slices.Clone(baseEnv)
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

var tokenPattern = regexp.MustCompile(`eyJ[\w-]{8,}\.`)

// call runs the command, and holds its output to what is promised for every call.
func call(t *testing.T, env environment, input string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := newCommand(env, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	status, stdout, stderr = cmd.ProcessState.ExitCode(), out.String(), errs.String()
	for _, secret := range env.secrets(t) {
		if strings.Contains(stdout+stderr, secret) {
			t.Fatal("a secret is in the output")
		}
	}
	check := slices.Contains(args, "check")
	if tokenPattern.MatchString(stderr) || !slices.Contains(args, "token") && tokenPattern.MatchString(stdout) {
		t.Fatal("a token is in the output")
	}
	if status != 0 && !check && stdout != "" {
		t.Errorf("got %q on standard output of a failure; want nothing", stdout)
	}
	switch {
	case status == 2:
		if !strings.HasPrefix(stderr, "mosaic: ") || !strings.Contains(stderr, "\n\nUsage:\n") {
			t.Errorf("got %q; want a line, and the usage", stderr)
		}
	case status == 1 && !check:
		if !strings.HasPrefix(stderr, "mosaic: ") || strings.Index(stderr, "\n") != len(stderr)-1 {
			t.Errorf("got %q; want one line", stderr)
		}
	case stderr != "" && !slices.Contains(args, "-"):
		t.Errorf("got %q on standard error; want nothing", stderr)
	}
	return status, stdout, stderr
}

// succeed returns the standard output of a call.
func succeed(t *testing.T, env environment, args ...string) string {
	t.Helper()
	status, stdout, stderr := call(t, env, "", args...)
	if status != 0 {
		t.Fatalf("mosaic %s: got status %d and %q", strings.Join(args, " "), status, stderr)
	}
	return stdout
}

func TestAMistakeInTheCallShowsTheUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args string
		want       string
	}{
		{"nothing", "", "a command is missing"},
		{"a secret as the command", "nobody-shall-see", "unknown command\n"},
		{"a token as an argument", "claims eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.x", "too many arguments for mosaic claims"},
		{"two inputs", "claims - -", "too many arguments"},
		{"a flag of another command", "jwks -json", "mosaic jwks has no flag -json"},
		{"a secret as the value of an unknown flag", "token -client-secret=nobody-shall-see", "mosaic: a flag is unknown, or its value is missing or wrong\n"},
		{"a secret as a flag", "token -nobody-shall-see", "mosaic: a flag is unknown, "},
		{"a secret behind too many dashes", "---nobody-shall-see", "mosaic: a flag is unknown, "},
		{"a secret as the value of a switch", "token -json=nobody-shall-see", "value is missing or wrong"},
		{"control characters in a flag", "token -\x1b[2J", "mosaic: a flag is unknown, "},
		{"no value", "token -resource", "value is missing or wrong"},
		{"the version of a command", "token -version", "mosaic token has no flag -version"},
		{"no version", "-version=false", "a command is missing"},
		{"an empty value", "token -resource=", "-resource: the value is empty"},
		{"no URI, like a field's name", "token -resource myResource", `-resource: Resource "myResource" is not an absolute URI`},
		{"no URI", "token -resource orders", `-resource: Resource "orders" is not an absolute URI`},
		{"an unknown region", "token -endpoint mars", `-endpoint: endpoint "mars" is not a URL: want "sandbox"`},
		{"a password in the endpoint", "token -endpoint https://me:nobody-shall-see@acme.com", `-endpoint: endpoint "https://[redacted]@acme.com" holds user information`},
		{"a line end in the ID", "token -client-id=id\n", "-client-id: ClientID holds a control character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := environment{"MOSAIC_CLIENT_SECRET": "nobody-shall-see"}
			args := strings.FieldsFunc(tt.args, func(r rune) bool { return r == ' ' })
			status, _, stderr := call(t, env, "", args...)
			if status != 2 || !strings.Contains(stderr, tt.want) || strings.Contains(stderr, "\x1b") {
				t.Errorf("got status %d and %q; want 2 and %q", status, stderr, tt.want)
			}
		})
	}
}

func TestHelpIsOutput(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"help", "-h", "help token", "token -h", "claims --help", "jwks -h", "check -help"} {
		stdout := succeed(t, nil, strings.Fields(args)...)
		for _, want := range []string{"curl -H @- https://", "Nothing is cached", "mosaic jwks > jwks.json", "mosaic version", "MOSAIC_CLIENT_SECRET_FILE"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("mosaic %s: no %q in the help", args, want)
			}
		}
	}
}

func TestVersionTellsWhichBuildThisIs(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"version", "-version", "--version", "version -version"} {
		for godebug, mode := range map[string]string{"fips140=off": "off", "fips140=on": "on"} {
			want := "^version        " + regexp.QuoteMeta(release) + "\nrevision       \\w+\nGo             " + regexp.QuoteMeta(runtime.Version()) + "\nFIPS 140 mode  " + mode + "\n$"
			if stdout := succeed(t, environment{"GODEBUG": godebug}, strings.Fields(args)...); !regexp.MustCompile(want).MatchString(stdout) {
				t.Errorf("mosaic %s: got %q; want %q", args, stdout, want)
			}
		}
	}
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Settings: []debug.BuildSetting{
		{Key: "vcs", Value: "git"},
		{Key: "vcs.revision", Value: "480919d0a1b2c3d4e5f60718293a4b5c6d7e8f90"},
		{Key: "vcs.modified", Value: "false"},
	}}
	if got := describe(info, false); !strings.Contains(got, "\nrevision       480919d0a1b2c3d4e5f60718293a4b5c6d7e8f90\n") {
		t.Errorf("got %q; want the revision", got)
	}
}

func TestTheVersionIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	for file, version := range map[string]string{"README.md": `(?m)^Version (\S+) needs `, "CHANGELOG.md": `(?m)^## \[(.+?)\]`} {
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(version).FindSubmatch(text); found == nil || string(found[1]) != release {
			t.Errorf("%s: got %q; want version %s", file, found, release)
		}
	}
}

func TestAFailureIsOneLine(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	good := newEnvironment(t, srv)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	tests := []struct {
		name, args string
		env        environment
		input      string
		want       string
	}{
		{"no environment", "token", nil, "", "MOSAIC_CLIENT_ID: ClientID is empty"},
		{"no environment for jwks", "jwks", nil, "", "MOSAIC_PRIVATE_KEY_FILE"},
		{"an unknown region", "token", good.with("MOSAIC_ENDPOINT", "mars"), "", `MOSAIC_ENDPOINT: endpoint "mars"`},
		{"no secret file", "token", good.with("MOSAIC_CLIENT_SECRET", "", "MOSAIC_CLIENT_SECRET_FILE", "gone"), "", "MOSAIC_CLIENT_SECRET_FILE: ClientSecret (a relative path): no such file"},
		{"a wrong secret", "token -json", good.with("MOSAIC_CLIENT_SECRET", "of another region"), "", "check ClientID and ClientSecret"},
		{"a resource of nobody", "token -resource https://orders.acme.com", good, "", `"https://orders.acme.com" has to be configured`},
		{"nobody there", "token -endpoint https://" + nobody.Addr().String(), good, "", "whether it can be reached from here"},
		{"an unknown authority", "token", good.with("SSL_CERT_FILE", kit.File(t, "")), "", "the server's certificate does not verify"},
		{"no key", "jwks", good, "", "a secret has no public key"},
		{"no input", "claims -", nil, " \n", "standard input is not one access token"},
		{"two words", "claims -", nil, "one two", "standard input is not one access token"},
		{"input without end", "claims -", nil, strings.Repeat("e", 65<<10), "standard input is not one access token"},
		{"an opaque token", "claims -", nil, "opaque", "not a JWT"},
		{"an encrypted token", "claims -", nil, "e30.e30.e30.e30.e30", "not a JWT"},
		{"claims in no base64", "claims -", nil, "e30.{}.x", "not JSON"},
		{"claims in no JSON", "claims -", nil, "e30.e3t9.x", "not JSON"},
		{"claims that are a list", "claims -", nil, "e30.W10.x", "not JSON"},
		{"101 nested levels", "claims -", nil, nested(100), "the token's claims have more than 100 nested levels"},
		{"brackets without end", "claims -", nil, "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"a":`+strings.Repeat("[", 27<<10))) + ".x", "more than 100 nested levels"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if status, _, stderr := call(t, tt.env, tt.input, strings.Fields(tt.args)...); status != 1 || !strings.Contains(stderr, tt.want) {
				t.Errorf("got status %d and %q; want 1 and %q", status, stderr, tt.want)
			}
		})
	}
}

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	env := newEnvironment(t, srv)
	for _, args := range []string{"token", "claims", "check", "help"} {
		readOnly, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer readOnly.Close()
		cmd := newCommand(env, args)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = readOnly, &errs
		cmd.Run()
		if status := cmd.ProcessState.ExitCode(); status != 1 || !regexp.MustCompile(`^mosaic: write .*\n$`).MatchString(errs.String()) {
			t.Errorf("mosaic %s: got status %d and %q; want 1 and a line", args, status, &errs)
		}
	}
}

func TestAReaderThatHasEnoughEndsTheCommandSilently(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := newCommand(newEnvironment(t, srv), "token")
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &errs
	if err := cmd.Run(); err == nil || errs.Len() > 0 {
		t.Errorf("got %v and %q; want an end, and nothing on standard error", err, &errs)
	}
}

func TestCtrlCEndsAWaitAtOnce(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	env := environment{"MOSAIC_CLIENT_ID": "id", "MOSAIC_CLIENT_SECRET": "a secret", "MOSAIC_ENDPOINT": "https://" + silent.Addr().String()}
	for _, args := range [][]string{{"token"}, {"claims", "-"}} {
		cmd := newCommand(env, args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer input.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if args[0] == "token" {
			conn, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); status != -1 || out.Len()+errs.Len() > 0 {
			t.Errorf("mosaic %s: got status %d, %q and %q; want an end by the signal", args, status, &out, &errs)
		}
	}
}

func TestTokenPrintsATokenAndNothingElse(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	srv.AddResource("https://orders.acme.com")
	srv.RegisterSecret("another", srv.Config().ClientSecret)
	env := newEnvironment(t, srv)
	region := env["MOSAIC_ENDPOINT"]
	tests := []struct {
		name, args string
		env        environment
		resource   string
		client     string
	}{
		{"the default audience", "token", env, "", ""},
		{"verify", "token -resource verify", env, string(mosaic.IdentityVerification), ""},
		{"risk", "token -resource risk", env, string(mosaic.FraudPrevention), ""},
		{"xdv", "token -resource xdv", env, string(mosaic.DataValidation), ""},
		{"a URI", "token --resource=https://orders.acme.com", env, "https://orders.acme.com", ""},
		{"the environment's resource", "token", env.with("MOSAIC_RESOURCE", "https://orders.acme.com"), "https://orders.acme.com", ""},
		{"a flag over the environment", "token -resource risk", env.with("MOSAIC_RESOURCE", "https://orders.acme.com"), string(mosaic.FraudPrevention), ""},
		{"flags behind", "token -resource risk -client-id another -endpoint " + region, env.with("MOSAIC_ENDPOINT", "mars", "MOSAIC_CLIENT_ID", ""), string(mosaic.FraudPrevention), "another"},
		{"flags before", "token -client-id another -endpoint " + region + " -resource risk", env.with("MOSAIC_ENDPOINT", ""), string(mosaic.FraudPrevention), "another"},
		{"flags before the command", "-client-id another token -resource risk", env, string(mosaic.FraudPrevention), "another"},
		{"a secret in a file", "token", env.with("MOSAIC_CLIENT_SECRET", "", "MOSAIC_CLIENT_SECRET_FILE", kit.File(t, env["MOSAIC_CLIENT_SECRET"]+"\n")), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv.ForgetRequests()
			token, ok := strings.CutSuffix(succeed(t, tt.env, strings.Fields(tt.args)...), "\n")
			if !ok || strings.ContainsAny(token, " \n") || !tokenPattern.MatchString(token) {
				t.Fatal("not a token and one newline")
			}
			client := tt.client
			if client == "" {
				client = env["MOSAIC_CLIENT_ID"]
			}
			sent := srv.TokenRequests()
			if len(sent) != 1 || sent[0].Form.Get("resource") != tt.resource || sent[0].Form.Get("client_id") != client {
				t.Errorf("got %d token requests, the first with %q of %q; want one with %q of %q",
					len(sent), sent[0].Form.Get("resource"), sent[0].Form.Get("client_id"), tt.resource, client)
			}
		})
	}
}

func TestTokenAsJSONIsWhatOAuth2Decodes(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	env := newEnvironment(t, srv).with("TZ", "Asia/Tokyo")
	stdout := succeed(t, env, "token", "-json", "-resource", "risk")
	var object map[string]string
	var tok oauth2.Token
	if err := json.Unmarshal([]byte(stdout), &object); err != nil || json.Unmarshal([]byte(stdout), &tok) != nil {
		t.Fatal("not an object of strings, or not a token")
	}
	claims, err := mosaic.ParseClaims(&tok)
	if err != nil {
		t.Fatal(err)
	}
	if len(object) != 3 || tok.TokenType != "Bearer" || object["expiry"] != claims.ExpiresAt.UTC().Format(time.RFC3339) {
		t.Errorf("got type %q, expiry %q; want Bearer, %s", object["token_type"], object["expiry"], claims.ExpiresAt)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.Endpoint().URL("/risk/v1/recommendation"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tok.SetAuthHeader(req)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Errorf("got %s of an API; want 200", resp.Status)
	}
}

// nested returns a token with n arrays in its claims, each in the one before. Brackets in a string and
// arrays that end do not count.
func nested(n int) string {
	claims := `{"a\"":"` + strings.Repeat("[", 100) + `\\","b":[` + strings.Repeat("[],", 99) + `[]],"c":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".x"
}

func TestClaimsAreThoseInTheToken(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	srv.SetClaims(func(claims map[string]any) {
		clear(claims)
		claims["exp"] = time.Now().Add(time.Hour).Unix()
		claims["large"] = json.Number("12345678901234567890")
		claims["undocumented"] = map[string]any{"a": []string{"<b>\u009b\x7f\U000e0001ü"}}
	})
	env := newEnvironment(t, srv)
	want := regexp.MustCompile(`^\{
  "exp": \d+,
  "large": 12345678901234567890,
  "undocumented": \{
    "a": \[
      "\\u003cb\\u003e\\u009b\\u007f\\udb40\\udc01ü"
    \]
  \}
\}
$`)
	if stdout := succeed(t, env, "claims", "-resource", "risk"); !want.MatchString(stdout) {
		t.Errorf("got %s", stdout)
	}
	token := succeed(t, env, "token")
	srv.ForgetRequests()
	for _, input := range []string{token, "\r\n\t" + token, "Bearer " + token, "> authorization: bearer " + token} {
		status, stdout, stderr := call(t, nil, input, "claims", "-")
		if status != 0 || !want.MatchString(stdout) || !strings.Contains(stderr, "not verified") {
			t.Errorf("got status %d, %s and %q; want claims, and a note", status, stdout, stderr)
		}
	}
	if _, stdout, _ := call(t, nil, "e30.IHt9Cg.x", "claims", "-"); stdout != "{}\n" { // " {}\n"
		t.Errorf("got %q of an empty object; want {}", stdout)
	}
	if status, stdout, _ := call(t, nil, nested(99), "claims", "-"); status != 0 || strings.Count(stdout, "[") != 99+201 {
		t.Errorf("got status %d and %q of claims with 100 nested levels; want the claims", status, stdout)
	}
	if n := len(srv.TokenRequests()); n != 0 {
		t.Errorf("standard input caused %d token requests; want none", n)
	}
}

func TestJWKSIsThePublicKeyOfTheFiles(t *testing.T) {
	t.Parallel()
	srv := mosaictest.Start(t)
	cert := kit.Certificate(t, "client", kit.EC(), nil)
	env := environment{
		"MOSAIC_CLIENT_ID":            "with a key",
		"MOSAIC_ENDPOINT":             string(srv.Endpoint()),
		"MOSAIC_PRIVATE_KEY_FILE":     kit.File(t, kit.KeyPEM(t, kit.Ed25519())),
		"MOSAIC_CERTIFICATE_FILE":     kit.File(t, kit.CertificatePEM(cert)),
		"MOSAIC_CERTIFICATE_KEY_FILE": kit.File(t, kit.KeyPEM(t, kit.EC())),
		"SSL_CERT_FILE":               newEnvironment(t, srv)["SSL_CERT_FILE"],
	}
	conf, err := mosaic.FromEnv(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	want, err := conf.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	set := succeed(t, env, "jwks")
	if set != string(want)+"\n" {
		t.Errorf("got %s; want %s", set, want)
	}
	srv.RegisterKey("with a key", []byte(set))
	if !tokenPattern.MatchString(succeed(t, env, "token")) {
		t.Error("no token for a client with this set")
	}
}
