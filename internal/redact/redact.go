// Package redact has the rule for foreign text in errors and logs.
//
// It does not decode: a text with an escape is withheld, and a run of characters like an encoded
// secret or a token is replaced. The rule keeps UUIDs, sentences, host names and short links.
package redact

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/oauth2"
)

const (
	Mark     = "[redacted]" // in place of a part
	Withheld = "[withheld]" // in place of a whole text

	maxRead = 8 << 10 // bytes of a peer's text: no more than 300 are shown
	maxOwn  = 300     // bytes of a foreign error

	// minSecret is the least length, in characters, of a secret to look for. A shorter one occurs
	// by chance.
	minSecret = 8
)

// run matches tokens, keys and encoded secrets, if the match has a digit.
var run = regexp.MustCompile(`[A-Za-z0-9+/=_]{20,}`)

// Peer returns a peer's text (a server's, a proxy's, a TLS stack's) as it may be shown, in max
// bytes at most.
func Peer(text, secret string, max int) string {
	if text = Cut(text, maxRead); !utf8.ValidString(text) || strings.ContainsFunc(text, isEscape) {
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

// isEscape reports whether r is not printable, or begins an escape of a string, a form or HTML.
func isEscape(r rune) bool {
	return !unicode.IsPrint(r) || r == '\\' || r == '%' || r == '&'
}

// Own returns a text of the caller's own side on one line, without the secret, in max bytes at
// most.
func Own(text, secret string, max int) string {
	text = hide(strings.ToValidUTF8(text, "\n"), secret) // a secret may have a character that is not printable
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
	return Cut(hide(strings.Join(words, " "), secret), max)
}

// A Foreign is an error of foreign code on the caller's side: a signer, a callback, a file. Its
// text is one line without the secret, computed here: an Error method may panic.
//
// errors.Is finds everything in it but the end of a context, and errors.As all but a RetrieveError:
// they would pass for the caller's and for the token endpoint's.
type Foreign struct {
	text string
	err  error
}

// NewForeign returns err as a Foreign, with a prefix to its text.
func NewForeign(prefix string, err error, secret string) (f *Foreign) {
	defer func() {
		if recover() != nil { // the value may hold a secret
			f = &Foreign{prefix + "an error without a text (its Error method panicked)", err}
		}
	}()
	return &Foreign{prefix + Own(strings.TrimPrefix(err.Error(), "mosaic: "), secret, maxOwn), err}
}

func (f *Foreign) Error() string { return f.text }
func (f *Foreign) As(target any) bool {
	_, refusal := target.(**oauth2.RetrieveError)
	return !refusal && errors.As(f.err, target)
}
func (f *Foreign) Is(target error) bool {
	return target != context.Canceled && target != context.DeadlineExceeded && errors.Is(f.err, target)
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9=_.:-]{1,128}$`)

// RequestID returns the value of a header with a request ID, or "" if it may not be shown.
func RequestID(value, secret string) string {
	if !requestID.MatchString(value) || hide(value, secret) != value {
		return ""
	}
	return value
}

// hide replaces the secret, as it is and as in a form, and then its first eight characters and
// everything up to the next space.
func hide(text, secret string) string {
	secret = strings.TrimSpace(secret) // as many servers do
	if utf8.RuneCountInString(secret) < minSecret {
		return text
	}
	for _, spelling := range []string{secret, strings.ReplaceAll(secret, " ", "+")} {
		beginning := regexp.QuoteMeta(string([]rune(spelling)[:minSecret]))
		text = strings.ReplaceAll(text, spelling, Mark)
		text = regexp.MustCompile(beginning+`\S*`).ReplaceAllLiteralString(text, Mark)
	}
	return text
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
