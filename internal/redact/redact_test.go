package redact_test

import (
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"example.com/mosaic/internal/redact"
)

var secrets = []string{
	"12345678",
	"fZ_9-~.plain",
	`a&b=c+d e%f;g`,
	`"quoted" 'too' <tag/> C:\new`,
	`$^*.+?()[]{}|!#@,:`,
	"geheimschlüssel日本",
	"party-🎉-secret",
}

// each returns s with f's text for every character that is no letter or digit
// of ASCII.
func each(f func(rune) string) func(string) string {
	return func(s string) string {
		var b strings.Builder
		for _, c := range s {
			if strings.ContainsRune("0123456789", c) || 'a' <= c|0x20 && c|0x20 <= 'z' {
				b.WriteRune(c)
			} else {
				b.WriteString(f(c))
			}
		}
		return b.String()
	}
}

func inJSON(s string) string {
	b, _ := json.Marshal(s)
	return string(b[1 : len(b)-1])
}

// spellings are how servers write what they were sent.
var spellings = []struct {
	name string
	of   func(string) string
}{
	{"text", func(s string) string { return s }},
	{"a form", url.QueryEscape},
	{"a form, lower-case hex", func(s string) string {
		return strings.NewReplacer("%2B", "%2b", "%3D", "%3d", "%3C", "%3c").Replace(url.QueryEscape(s))
	}},
	{"a path", url.PathEscape},
	{"a form, all escaped", each(func(c rune) string {
		out := ""
		for _, b := range []byte(string(c)) {
			out += fmt.Sprintf("%%%02X", b)
		}
		return out
	})},
	{"Go's JSON", inJSON},
	{"PHP's JSON", func(s string) string { return strings.ReplaceAll(inJSON(s), "/", `\/`) }},
	{"Python's and .NET's JSON", each(func(c rune) string {
		out := ""
		for _, unit := range utf16.Encode([]rune{c}) {
			out += fmt.Sprintf(`\u%04X`, unit)
		}
		return out
	})},
	{"JSON in JSON", func(s string) string { return inJSON(inJSON(s)) }},
	{"a form in .NET's JSON", func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", `\u002B`) }},
	{"Go's syntax", func(s string) string { q := strconv.Quote(s); return q[1 : len(q)-1] }},
	{"html", html.EscapeString},
	{"HTML in HTML", func(s string) string { return html.EscapeString(html.EscapeString(s)) }},
	{"html/template", template.HTMLEscapeString},
	{"a form in html/template", func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "&#43;") }},
	{"PHP's HTML", func(s string) string { return strings.ReplaceAll(html.EscapeString(s), "&#39;", "&#039;") }},
	{"XML", func(s string) string {
		return strings.NewReplacer("&#39;", "&apos;", "&#34;", "&quot;").Replace(html.EscapeString(s))
	}},
	{"decimal entities", each(func(c rune) string { return fmt.Sprintf("&#%d;", c) })},
	{"hexadecimal entities", each(func(c rune) string { return fmt.Sprintf("&#x%X;", c) })},
}

func TestASecretIsTakenOutInEverySpelling(t *testing.T) {
	for i, secret := range secrets {
		r := redact.New(secret)
		for _, spelling := range spellings {
			t.Run(fmt.Sprintf("%d in %s", i, spelling.name), func(t *testing.T) {
				text := spelling.of(secret)
				if got := r.Text("1" + text + "2" + text + "&x=3"); got != "1[redacted]2[redacted]&x=3" {
					t.Errorf("got a text of %d bytes; want 1[redacted]2[redacted]&x=3", len(got))
				}
				if got := r.Quote(text+"\n", 100); got != `"[redacted]\n"` {
					t.Errorf("Quote: got a text of %d bytes; want \"[redacted]\\n\"", len(got))
				}
			})
		}
	}
}

func TestASecretIsTakenOutInASpellingOfASpelling(t *testing.T) {
	for i, secret := range append(secrets, "q7Xk+Vb2/mN9pLw0sTzR4A==", `100%41&\u0042&amp;C`) {
		r := redact.New(secret)
		for _, inner := range spellings {
			for _, outer := range spellings {
				text := outer.of(inner.of(secret))
				if got := r.Text("1" + text + "2" + text + "&x=3"); got != "1[redacted]2[redacted]&x=3" {
					t.Errorf("secret %d, as in %s, as in %s: got a text of %d bytes; want 1[redacted]2[redacted]&x=3",
						i, inner.name, outer.name, len(got))
				}
			}
		}
	}
}

func TestASecretIsTakenOutOfALoginPagesRedirect(t *testing.T) {
	const secret = "q7Xk+Vb2/mN9pLw0sTzR4A=="
	form := url.Values{"client_secret": {secret}, "grant_type": {"client_credentials"}}.Encode()
	location := "https://login.acme.com/?return_to=" + url.QueryEscape("/oidc/token?"+form)
	page := inJSON(`<a href="` + html.EscapeString("/go?to="+url.QueryEscape(location)) + `">`)
	for _, text := range []string{form, location, page} {
		want := strings.NewReplacer(
			url.QueryEscape(secret), "[redacted]",
			url.QueryEscape(url.QueryEscape(secret)), "[redacted]",
			url.QueryEscape(url.QueryEscape(url.QueryEscape(secret))), "[redacted]").Replace(text)
		if got := redact.New(secret).Text(text); got != want || want == text {
			t.Errorf("got a text of %d bytes; want %q", len(got), want)
		}
	}
}

// What carries a secret may trim it, and a person may paste it with a space.
func TestASecretWithASpaceAtItsEndIsTakenOutWhereThatIsTrimmed(t *testing.T) {
	if got, want := redact.New(" 0123456789 ").Text("secret='0123456789'"), "secret='[redacted]'"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

// Of a text that is too long to be read whole, the end of what is read may hold
// the beginning of a secret.
func TestNoPieceOfASecretIsLeftOfALongText(t *testing.T) {
	secret := strings.Repeat("0123456789", 30)
	for shift := 0; shift < len(secret); shift += 7 {
		text := strings.Repeat("-", shift) + strings.Repeat(secret+"+", 100)
		got := redact.New(secret).Text(text)
		if strings.Contains(got, "0123456789") {
			t.Fatalf("shifted by %d: a piece of a secret is left", shift)
		}
		if !strings.HasPrefix(got[shift:], "[redacted]+[redacted]+") {
			t.Fatalf("shifted by %d: got a text of %d bytes; want [redacted]+[redacted]+…", shift, len(got))
		}
	}
}

func TestSecretsThatOverlapAreTakenOutWhole(t *testing.T) {
	if got, want := redact.New("abab-abab").Text("1abab-abab-abab2"), "1[redacted]2"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestASecretUnderEightBytesIsLeft(t *testing.T) {
	for secret, want := range map[string]string{
		"":         "error in errors: 1234567, 12345678",
		"error":    "error in errors: 1234567, 12345678",
		"1234567":  "error in errors: 1234567, 12345678",
		"12345678": "error in errors: 1234567, [redacted]",
	} {
		if got := redact.New(secret).Text("error in errors: 1234567, 12345678"); got != want {
			t.Errorf("a secret of %d bytes: got %q; want %q", len(secret), got, want)
		}
	}
}

func TestWhatLooksLikeAJWTIsTakenOut(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"Bearer eyJhbGci.eyJzdWIi.c2ln-_, 401", "Bearer [redacted], 401"},
		{"unsigned eyJhbGci.eyJzdWIi. yes", "unsigned [redacted] yes"},
		{"cut eyJhbGci.eyJz", "cut [redacted]"},
		{"encrypted eyJhbGci.a.b.c.d!", "encrypted [redacted]!"},
		{"a=eyJa.b.c&b=eyJa.b.c", "a=[redacted]&b=[redacted]"},
		{"eyJhbGci", "eyJhbGci"},
		{"api.eu.transmitsecurity.io", "api.eu.transmitsecurity.io"},
	} {
		if got := redact.New("").Text(tt.text); got != tt.want {
			t.Errorf("%q: got %q; want %q", tt.text, got, tt.want)
		}
	}
}

func TestTheValueOfACredentialIsTakenOut(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"client_id=a&client_secret=b&x=c", "client_id=a&client_secret=[redacted]&x=c"},
		{"client_secret=b&client_assertion=c", "client_secret=[redacted]&client_assertion=[redacted]"},
		{"Access_Token: b, 401", "Access_Token: [redacted], 401"},
		{`{"refresh_token": "b", "x": "c"}`, `{"refresh_token": "[redacted]", "x": "c"}`},
		{`{\"id_token\":\"b\"}`, `{\"id_token\":\"[redacted]\"}`},
		{"&quot;client_assertion&quot;:&quot;b&quot;", "&quot;client_assertion&quot;:&quot;[redacted]&quot;"},
		{"<b>&#34;access_token&#34;=b</b>", "<b>&#34;access_token&#34;=[redacted]</b>"},
		{"an echo, cut off: client_secret=b", "an echo, cut off: client_secret=[redacted]"},
		{"/login?next=%2F%3Fclient_secret%3Db%26x%3Dc", "/login?next=%2F%3Fclient_secret%3D[redacted]%26x%3Dc"},
		{`client_secret\u003db\u0026x`, `client_secret\u003d[redacted]\u0026x`},
		{"client_assertion_type=urn:b", "client_assertion_type=urn:b"},
		{"no access_token, sorry", "no access_token, sorry"},
		{"access_token=&client_secret=", "access_token=&client_secret="},
	} {
		if got := redact.New("").Text(tt.text); got != tt.want {
			t.Errorf("%q: got %q; want %q", tt.text, got, tt.want)
		}
	}
}

func TestAQuoteIsShortAndWithoutControlCharacters(t *testing.T) {
	for _, tt := range []struct {
		s    string
		n    int
		want string
	}{
		{"", 4, `""`},
		{"four", 4, `"four"`},
		{"fives", 4, `"five"…`},
		{"a\r\n\x00\x1b[31m\u0085\u202e\xff", 99, `"a\r\n\x00\x1b[31m\u0085\u202e\xff"`},
		{"abcü", 5, `"abcü"`},
		{"abcü", 4, `"abc"…`},
		{"abcüd", 5, `"abcü"…`},
		{"日本", 2, `""…`},
		{"\x80\x80\x80", 2, `""…`},
	} {
		if got := redact.Quote(tt.s, tt.n); got != tt.want {
			t.Errorf("%q, %d bytes: got %s; want %s", tt.s, tt.n, got, tt.want)
		}
	}
}

// What is cut first may end in half a secret, which nothing would recognise.
func TestASecretIsTakenOutBeforeTheTextIsCut(t *testing.T) {
	if got, want := redact.New("0123456789").Quote("abc0123456789def", 8), `"abc[reda"…`; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestASecretThatIsNotUTF8IsFoundInAForm(t *testing.T) {
	if got := redact.New("p\xe4ssword-1234").Text("x=p%E4ssword-1234&y"); got != "x=[redacted]&y" {
		t.Errorf("got a text of %d bytes; want x=[redacted]&y", len(got))
	}
}
