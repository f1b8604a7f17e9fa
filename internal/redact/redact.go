// Package redact decides which parts of other parties' text may appear in errors and logs.
//
// Encoded text is not decoded. Everything from the first escape on is withheld. Any run of characters
// that looks like a token or an encoded secret is replaced. UUIDs, sentences, host names and short
// links are kept.
package redact

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/oauth2"
)

const (
	Mark     = "[redacted]" // replaces a part of some text
	withheld = "[withheld]" // replaces the rest of some text

	// minSecret is the minimum length, in characters, of the secrets that are searched for. A shorter
	// secret may occur in other text by chance.
	minSecret = 8

	maxRead = 8 << 10 // bytes of a peer's text, of which at most 300 are shown
)

// run matches tokens, keys and encoded secrets. Only a match that has a digit is replaced.
var run = regexp.MustCompile(`[A-Za-z0-9+/=_]{20,}`)

// Peer returns the parts of a peer's text that may be shown, on one line of at most max bytes. A peer
// is a server, a proxy or a TLS stack.
func Peer(text, secret string, max int) string {
	text = strings.ToValidUTF8(Cut(strings.TrimSpace(text), maxRead), "\x00")
	text = run.ReplaceAllStringFunc(plain(hide(text, secret)), func(s string) string {
		if strings.ContainsAny(s, "0123456789") {
			return Mark
		}
		return s
	})
	return Cut(text, max)
}

// plain cuts text off at the first character that is unprintable or begins an escape. Unless that
// character is a line break, plain also drops the partial word before it. If the text before it
// contains a Mark, plain drops everything after the Mark, because a secret that contains spaces may
// continue there.
func plain(text string) string {
	end := strings.IndexFunc(text, func(r rune) bool {
		return !unicode.IsPrint(r) || strings.ContainsRune(`\%&`, r) // escapes of strings, forms and HTML
	})
	if end < 0 {
		return text
	}
	shown := text[:end]
	if before, _, found := strings.Cut(shown, Mark); found {
		shown = before + Mark
	} else if text[end] != '\n' && text[end] != '\r' {
		shown = shown[:strings.LastIndexByte(shown, ' ')+1]
	}
	return strings.TrimSpace(strings.TrimSpace(shown) + " " + withheld)
}

// Own puts text on one line of at most max bytes and hides the secret in it. It is for text that does
// not come from a peer.
func Own(text, secret string, max int) string {
	return Cut(hide(oneLine(text), oneLine(secret)), max)
}

// oneLine replaces each run of unprintable characters, such as newlines, with a space.
func oneLine(text string) string {
	words := strings.FieldsFunc(strings.ToValidUTF8(text, "\n"), func(r rune) bool { return !unicode.IsPrint(r) })
	return strings.Join(words, " ")
}

// A Foreign is an error from something that the caller supplied: a signer, a callback or a file. Its
// message is one line without the secret. It is computed when the Foreign is made, because the
// original's Error method may panic.
//
// errors.Is finds everything in a Foreign except context errors, which could be mistaken for those of
// the caller's context. errors.As finds everything except a RetrieveError, which could be mistaken
// for a reply from the token endpoint.
type Foreign struct {
	text string
	err  error
}

// NewForeign returns err as a Foreign. Its message is prefix and at most 300 bytes of err's message.
func NewForeign(prefix string, err error, secret string) (f *Foreign) {
	defer func() {
		if recover() != nil { // the value may contain a secret
			f = &Foreign{prefix + "an error without a text (its Error method panicked)", err}
		}
	}()
	return &Foreign{prefix + Own(strings.TrimPrefix(err.Error(), "mosaic: "), secret, 300), err}
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

// RequestID returns the value of a header with a request ID, or "" if the value may not be shown.
func RequestID(value, secret string) string {
	if requestID.MatchString(value) && hide(value, secret) == value {
		return value
	}
	return ""
}

// userInfo matches the user information of a URL, which may contain spaces. If net/url cannot parse
// the URL, the user information may also contain slashes, the URL may be cut off at a # in the
// password, and a part of the password may be reported as the port.
var userInfo = regexp.MustCompile(`((?:parse|address) "\w+://)[^"]*(@)|(://)[^/"]*(@)|` +
	`(invalid port ":)[^"]*|(://)[^/"@:\[ ]*:[^ :/"@\\]*[^0-9 :/"@\\][^/"@\\]*`)

// hide replaces the secret, in any letter case, then its first eight characters together with
// everything up to the next space, and then the user information of URLs.
func hide(text, secret string) string {
	if secret := []rune(strings.TrimSpace(secret)); len(secret) >= minSecret { // servers trim it, too
		start := secret[:minSecret]
		for _, pattern := range []string{regexp.QuoteMeta(string(secret)), regexp.QuoteMeta(string(start)) + "[^ ]*"} {
			text = regexp.MustCompile("(?i)"+pattern).ReplaceAllLiteralString(text, Mark)
		}
	}
	return userInfo.ReplaceAllString(text, "$1$3$5$6"+Mark+"$2$4")
}

// Cut returns at most max bytes of text, with an ellipsis in place of the rest.
func Cut(text string, max int) string {
	const ellipsis = "…"
	if len(text) <= max {
		return text
	}
	return strings.ToValidUTF8(text[:max-len(ellipsis)], "") + ellipsis
}
