// Package redact has the rule for foreign text in errors and logs.
//
// It does not decode: a text with an escape is withheld, and a run that could be
// an encoded secret or a token is replaced. The rule keeps UUIDs, host names, links
// and sentences.
package redact

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	Mark     = "[redacted]" // in place of a part
	Withheld = "[withheld]" // in place of a whole text

	// minSecret is the length in characters from which a secret is looked for. A
	// shorter one occurs by chance.
	minSecret = 8
)

// run matches what could be a token, a key or an encoded secret, if it has a digit.
var run = regexp.MustCompile(`[A-Za-z0-9+/=_]{20,}`)

// Peer returns what may be shown of a text from a peer (a server, a proxy, a TLS
// stack), in max bytes at most.
func Peer(text, secret string, max int) string {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, isEscape) {
		return Withheld
	}
	text = run.ReplaceAllStringFunc(hide(text, secret), func(s string) string {
		if strings.ContainsAny(s, "0123456789") {
			return Mark
		}
		return s
	})
	return Cut(text, max)
}

// isEscape reports whether r is not printable, or begins an escape of a string, a
// form or HTML.
func isEscape(r rune) bool {
	return !unicode.IsPrint(r) || r == '\\' || r == '%' || r == '&'
}

// Own returns a text of the caller's own side on one line, without the secret, in
// max bytes at most.
func Own(text, secret string, max int) string {
	words := strings.FieldsFunc(strings.ToValidUTF8(text, "\n"), func(r rune) bool { return !unicode.IsPrint(r) })
	return Cut(hide(strings.Join(words, " "), secret), max)
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9=_.:-]{1,128}$`)

// RequestID returns the value of a header with a request ID, or "" if it is not
// fit to be shown.
func RequestID(value, secret string) string {
	if !requestID.MatchString(value) || hide(value, secret) != value {
		return ""
	}
	return value
}

// hide replaces the secret, and its beginning with all up to the next space.
func hide(text, secret string) string {
	secret = strings.TrimSpace(secret) // as many servers do
	if utf8.RuneCountInString(secret) < minSecret {
		return text
	}
	text = strings.ReplaceAll(text, secret, Mark)
	beginning := string([]rune(secret)[:minSecret])
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, beginning)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString(Mark)
		_, text, _ = strings.Cut(rest, " ")
		if len(text) > 0 {
			text = " " + text
		}
	}
}

// Cut returns text in max bytes at most, with an ellipsis for the rest.
func Cut(text string, max int) string {
	const ellipsis = "…"
	if len(text) <= max {
		return text
	}
	end := max - len(ellipsis)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}
