// Command mosaic prints access tokens for Transmit Security's Mosaic, the claims of a token, and the
// JWK Set to submit to Mosaic. It also checks a configuration. Run "mosaic help" for details.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/fips140"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"golang.org/x/oauth2"

	"example.com/mosaic"
)

// Signals keep their default action, because there is nothing to clean up. So Ctrl-C ends the process
// at once, even while it is reading a file, and also ends a script that runs it.
func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// verbs maps the first argument that is not a flag to its function and its flags. Each verb has the
// flags -endpoint and -client-id as well.
var verbs = map[string]struct {
	run   func(*command, context.Context) error
	flags []string
}{
	"token":   {(*command).token, []string{"resource", "json"}},
	"claims":  {(*command).claims, []string{"resource"}},
	"jwks":    {(*command).jwks, nil},
	"check":   {(*command).check, nil},
	"version": {(*command).version, []string{"version"}},
}

type service struct {
	name     string // the name that -resource accepts
	resource mosaic.Resource
}

var services = []service{
	{"verify", mosaic.IdentityVerification},
	{"risk", mosaic.FraudPrevention},
	{"xdv", mosaic.DataValidation},
}

// A command is one invocation of the program.
type command struct {
	verb           string
	input          bool // whether "-" asks for a token on standard input
	json           bool
	getenv         func(string) string // reads the environment, unless a flag overrides a variable
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool  // whether stderr is a terminal
	err            error // the first error from a write to stdout
}

// errPrinted stands for a failure that is already reported on standard output.
var errPrinted = errors.New("failed")

// run runs the command that args describe, and returns the exit status.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &command{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	if file, ok := stderr.(*os.File); ok {
		info, err := file.Stat()
		c.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	err := c.parse(args)
	switch {
	case err == nil:
		err = verbs[c.verb].run(c, ctx)
	case err == flag.ErrHelp:
		c.print(strings.TrimSuffix(help, "\n"))
		err = nil
	default:
		fmt.Fprintf(stderr, "mosaic: %v\n\n%s", err, usage)
		return 2
	}
	switch err = cmp.Or(c.err, err); {
	case err == nil:
		return 0
	case err != errPrinted:
		c.note("%s", unprefixed(err))
	}
	return 1
}

func unprefixed(err error) string { return strings.TrimPrefix(err.Error(), "mosaic: ") }

// parse reads the flags and the words. Its errors do not show unknown words and flags, because these
// may be misplaced secrets.
func (c *command) parse(args []string) error {
	flags := flag.NewFlagSet("mosaic", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	endpoint, clientID, resource := flags.String("endpoint", "", ""), flags.String("client-id", "", ""), flags.String("resource", "", "")
	flags.BoolVar(&c.json, "json", false, "")
	version := flags.Bool("version", false, "")
	words, err := parseWords(flags, args)
	if err != nil {
		return err
	}
	if *version && len(words) == 0 {
		words = []string{"version"}
	}
	if len(words) == 0 {
		return errors.New("a command is missing")
	}
	c.verb = words[0]
	c.input = c.verb == "claims" && len(words) == 2 && words[1] == "-"
	verb, ok := verbs[c.verb]
	switch {
	case c.verb == "help":
		return flag.ErrHelp
	case !ok:
		return errors.New("unknown command")
	case len(words) > 1 && !c.input:
		return fmt.Errorf("too many arguments for mosaic %s", c.verb)
	}

	if i := slices.IndexFunc(services, func(s service) bool { return s.name == *resource }); i >= 0 {
		*resource = string(services[i].resource)
	}
	flags.Visit(func(f *flag.Flag) {
		if !slices.Contains(append(verb.flags, "endpoint", "client-id"), f.Name) {
			err = fmt.Errorf("mosaic %s has no flag -%s", c.verb, f.Name)
		} else if mistake := validate(f); mistake != nil {
			err = fmt.Errorf("-%s: %s", f.Name, strings.TrimPrefix(unprefixed(mistake), "invalid Config: "))
		}
	})
	if err != nil {
		return err
	}
	overridden := map[string]string{"MOSAIC_ENDPOINT": *endpoint, "MOSAIC_CLIENT_ID": *clientID, "MOSAIC_RESOURCE": *resource}
	getenv := c.getenv
	c.getenv = func(name string) string { return cmp.Or(overridden[name], getenv(name)) }
	return nil
}

// parseWords sets flags, which may come before, between and after the words, and returns the words.
func parseWords(flags *flag.FlagSet, args []string) (words []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err == flag.ErrHelp {
			return nil, err
		} else if err != nil {
			return nil, errors.New("a flag is unknown, or its value is missing or wrong")
		}
		if args = flags.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	return words, nil
}

// validate returns an error if the value of a flag is wrong. It puts the value into a Config that is
// otherwise valid.
func validate(f *flag.Flag) (err error) {
	value := f.Value.String()
	conf := mosaic.Config{ClientID: "-", ClientSecret: "-", Endpoint: mosaic.US}
	switch {
	case value == "":
		return errors.New("the value is empty")
	case f.Name == "endpoint":
		conf.Endpoint, err = mosaic.ParseEndpoint(value)
	case f.Name == "client-id":
		conf.ClientID = value
	case f.Name == "resource":
		conf.Resource = mosaic.Resource(value)
	}
	return cmp.Or(err, conf.Validate())
}

// print writes text and a newline to standard output.
func (c *command) print(text string) {
	_, err := io.WriteString(c.stdout, text+"\n")
	c.err = cmp.Or(c.err, err)
}

// note writes a line to standard error.
func (c *command) note(format string, args ...any) {
	fmt.Fprintf(c.stderr, "mosaic: "+format+"\n", args...)
}

// waiting prints what the command waits for, if standard error is a terminal and the wait takes more
// than a second. The caller calls stop when the wait is over.
func (c *command) waiting(what string) (stop func() bool) {
	return time.AfterFunc(time.Second, func() {
		if c.terminal {
			c.note("waiting for %s", what)
		}
	}).Stop
}

// request requests a token for resource instead of conf.Resource.
func (c *command) request(ctx context.Context, conf *mosaic.Config, resource mosaic.Resource) (*oauth2.Token, error) {
	own := *conf
	own.Resource = resource
	defer c.waiting("a token of " + string(conf.Endpoint) + ", for up to 30 seconds")()
	return own.Token(ctx)
}

// newToken requests a token for the configured resource.
func (c *command) newToken(ctx context.Context) (*oauth2.Token, error) {
	conf, err := mosaic.FromEnv(c.getenv)
	if err != nil {
		return nil, err
	}
	return c.request(ctx, conf, conf.Resource)
}

func (c *command) token(ctx context.Context) error {
	tok, err := c.newToken(ctx)
	if err != nil {
		return err
	}
	text := tok.AccessToken
	if c.json {
		object, _ := json.Marshal(map[string]string{ // cannot fail for strings
			"access_token": tok.AccessToken,
			"token_type":   tok.Type(),
			"expiry":       tok.Expiry.UTC().Format(time.RFC3339),
		})
		text = string(object)
	}
	c.print(text)
	if c.terminal && c.err == nil {
		c.note("the token expires at %s, in %s", tok.Expiry.Format(time.RFC3339), left(tok))
	}
	return nil
}

func left(tok *oauth2.Token) time.Duration { return time.Until(tok.Expiry).Round(time.Second) }

func (c *command) claims(ctx context.Context) error {
	var tok *oauth2.Token
	var err error
	if c.input {
		tok, err = c.readToken()
	} else {
		tok, err = c.newToken(ctx)
	}
	if err != nil {
		return err
	}
	var text bytes.Buffer
	parts := strings.Split(tok.AccessToken, ".")
	if len(parts) != 3 {
		return errors.New("the token is not a JWT: its claims cannot be read")
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	claims = bytes.TrimSpace(claims)
	if isDeep(claims) {
		return fmt.Errorf("the token's claims have more than %d nested levels", maxDepth)
	}
	if err != nil || !bytes.HasPrefix(claims, []byte("{")) || json.Indent(&text, claims, "", "  ") != nil {
		return errors.New("the token is not a JWT: its claims are not JSON in base64url")
	}
	var b strings.Builder
	for _, r := range text.String() {
		if r == '\n' || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) { // escaped, because a terminal might interpret r
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	c.print(b.String())
	if c.input && c.err == nil {
		c.note("the token is not verified: do not trust its claims")
	}
	return nil
}

// maxDepth bounds the nested levels of claims, because 27 KB of brackets, if indented, would take a
// gigabyte.
const maxDepth = 100

// isDeep reports whether JSON has more than maxDepth nested levels.
func isDeep(data []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(data) && depth <= maxDepth; i++ {
		switch b := data[i]; {
		case b == '"':
			quoted = !quoted
		case b == '\\': // only in quotes
			i++
		case !quoted && (b == '{' || b == '['):
			depth++
		case !quoted && (b == '}' || b == ']'):
			depth--
		}
	}
	return depth > maxDepth
}

// maxInput bounds standard input, in bytes. It is more than enough, because package mosaic accepts
// tokens of up to 16 KiB.
const maxInput = 64 << 10

// readToken reads a token from standard input. The token may be in a header, as curl -v shows it.
func (c *command) readToken() (*oauth2.Token, error) {
	defer c.waiting("a token on standard input")()
	data, err := io.ReadAll(io.LimitReader(c.stdin, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	words := strings.Fields(string(data))
	if n := len(words); n > 1 && strings.EqualFold(words[n-2], "Bearer") {
		words = words[n-1:]
	}
	if len(words) != 1 || len(data) > maxInput {
		return nil, errors.New("standard input is not one access token")
	}
	return &oauth2.Token{AccessToken: words[0]}, nil
}

func (c *command) jwks(context.Context) error {
	conf, err := mosaic.FromEnv(c.getenv)
	if err != nil {
		return err
	}
	set, err := conf.JWKS()
	if err != nil {
		return err
	}
	c.print(string(set))
	return nil
}

// release is the version of this source. The build information lacks it if a replace directive points
// to a local checkout, as in the README.
const release = "0.3.0"

func (c *command) version(context.Context) error {
	info, _ := debug.ReadBuildInfo()
	c.print(describe(cmp.Or(info, new(debug.BuildInfo)), fips140.Enabled()))
	return nil
}

// describe returns what a bug report has to say about a build. The revision is known only if the build
// was made in a checkout of the repository.
func describe(info *debug.BuildInfo, fips bool) string {
	revision, mode := "unknown", "off"
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	if fips {
		mode = "on"
	}
	return fmt.Sprintf("version        %s\nrevision       %s\nGo             %s\nFIPS 140 mode  %s", release, revision, info.GoVersion, mode)
}
