// Package redact makes foreign text fit for an error or a log: without secrets,
// short, and without control characters.
package redact

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Mark stands where something was taken out.
const Mark = "[redacted]"

// minSecret is the length from which on a secret is looked for. A shorter one
// would shred the text: it occurs in it by chance.
const minSecret = 8

// jwtLike is what tokens and assertions look like, whoever made them.
var jwtLike = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+(\.[\w-]*)*`)

// A Redactor takes a secret, and anything that looks like a JWT, out of text. It
// is safe for concurrent use.
type Redactor struct {
	spellings func() *regexp.Regexp // nil: there is no secret to look for
}

// New returns a Redactor for secret, which may be empty.
func New(secret string) *Redactor {
	if len(secret) < minSecret {
		return new(Redactor)
	}
	// Most secrets are never found in anything.
	return &Redactor{sync.OnceValue(func() *regexp.Regexp { return spellings(secret) })}
}

// Text returns s with [Mark] in the place of what is secret.
func (r *Redactor) Text(s string) string {
	if r.spellings != nil {
		s = r.spellings().ReplaceAllLiteralString(s, Mark)
	}
	return jwtLike.ReplaceAllLiteralString(s, Mark)
}

// Quote returns [Quote] of r.Text(s).
func (r *Redactor) Quote(s string, n int) string { return Quote(r.Text(s), n) }

// spellings matches secret as it stands in a form, in JSON, in HTML or in text:
// a server that echoes a request may escape each of its characters in any way.
func spellings(secret string) *regexp.Regexp {
	var b strings.Builder
	for _, c := range secret {
		literal := regexp.QuoteMeta(string(c))
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' {
			b.WriteString(literal)
			continue
		}
		percent := ""
		for _, octet := range []byte(string(c)) {
			percent += fmt.Sprintf("%%%02x", octet)
		}
		fmt.Fprintf(&b, `(?:\\?%s|(?i:%s|\\u%04x|&#0*%d;|&#x0*%x;%s))`, literal, percent, c, c, c, named[c])
	}
	return regexp.MustCompile(b.String())
}

// named has the further spellings of single characters, each as an alternative.
var named = map[rune]string{
	' ': `|\+`, '&': "|&amp;", '<': "|&lt;", '>': "|&gt;", '"': "|&quot;", '\'': "|&apos;",
}

// Quote returns the first n bytes of s in Go's syntax, in which no control
// character is left.
func Quote(s string, n int) string {
	if short := Cut(s, n); len(short) < len(s) {
		return strconv.Quote(short) + "…"
	}
	return strconv.Quote(s)
}

// Cut returns the first n bytes of s, less those that begin a character and do
// not end it.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
