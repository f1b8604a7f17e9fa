// Package redact makes foreign text fit for an error or a log: without secrets,
// short, and without control characters.
package redact

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// Mark stands where something was taken out.
const Mark = "[redacted]"

// minSecret is the length from which on a secret is looked for. A shorter one
// would shred the text: it occurs in it by chance.
const minSecret = 8

// jwtLike is what tokens and assertions look like, whoever made them.
var jwtLike = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+(\.[\w-]*)*`)

// credential is the value of a parameter or member that holds one, also where an
// echo of it breaks off in the middle, or a gateway shows another's reply.
var credential = regexp.MustCompile(`(?i)((?:access_token|refresh_token|id_token|client_secret|client_assertion)(?:\\?["']|&quot;|&#34;)?\s*[:=]\s*(?:\\?["']|&quot;|&#34;)?)[^\s"'&<>,;}\\[]+`)

// A Redactor takes a secret, anything that looks like a JWT, and the values of
// parameters that hold credentials out of text. It is safe for concurrent use.
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
	s = jwtLike.ReplaceAllLiteralString(s, Mark)
	return credential.ReplaceAllString(s, "${1}"+Mark)
}

// Quote returns [Quote] of r.Text(s).
func (r *Redactor) Quote(s string, n int) string { return Quote(r.Text(s), n) }

// spellings matches secret as it stands in a form, in JSON, in HTML or in text:
// what echoes a request may escape each of its characters, and what comes behind
// it may escape that once more.
func spellings(secret string) *regexp.Regexp {
	var b strings.Builder
	for len(secret) > 0 {
		c, size := utf8.DecodeRuneInString(secret)
		octets := secret[:size] // of c, or one that is no UTF-8
		secret = secret[size:]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' {
			b.WriteRune(c)
			continue
		}
		percent := ""
		for _, octet := range []byte(octets) {
			percent += escaped('%') + fmt.Sprintf("(?i:%02x)", octet)
		}
		b.WriteString("(?:" + escaped(c) + "|" + percent)
		if c == ' ' {
			b.WriteString("|" + escaped('+'))
		}
		b.WriteString(")")
	}
	return regexp.MustCompile(b.String())
}

// escaped matches c, or its escape in JSON, HTML or a string's syntax.
func escaped(c rune) string {
	unicode := ""
	for _, unit := range utf16.Encode([]rune{c}) {
		unicode += fmt.Sprintf(`\\+u(?i:%04x)`, unit)
	}
	entity := fmt.Sprintf("#0*%d|#[xX]0*(?i:%x)", c, c)
	if name := entities[c]; name != "" {
		entity += "|" + name
	}
	return fmt.Sprintf(`(?:\\*%s|%s|&(?:amp;)*(?:%s);)`, regexp.QuoteMeta(string(c)), unicode, entity)
}

var entities = map[rune]string{'&': "amp", '<': "lt", '>': "gt", '"': "quot", '\'': "apos", '+': "plus"}

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
