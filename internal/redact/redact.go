// Package redact makes foreign text fit for an error or a log: without secrets,
// short, and without control characters.
package redact

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Mark stands where something was taken out.
const Mark = "[redacted]"

const (
	// minSecret is the length from which on a secret is looked for. A shorter one
	// would shred the text: it occurs in it by chance.
	minSecret = 8

	// maxLayers is how many escapes on top of each other are undone: a form, in
	// the URL that a login page is to return to, in HTML, in JSON, are four.
	maxLayers = 5

	// Of a longer text maxText bytes are read, and what begins in the last
	// maxEcho of them is left out: it may be the beginning of a secret.
	maxText = 16 << 10
	maxEcho = 8 << 10
)

// jwtLike is what tokens and assertions look like, whoever made them.
var jwtLike = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+(\.[\w-]*)*`)

// credential is the value of a parameter or member that holds one, also where an
// echo of it breaks off in the middle, or a gateway shows another's reply.
var credential = regexp.MustCompile(`(?i)(?:access_token|refresh_token|id_token|client_secret|client_assertion)(?:\\?["']|&quot;|&#34;)?\s*[:=]\s*(?:\\?["']|&quot;|&#34;)?([^\s"'&<>,;}\\[]+)`)

// A Redactor takes a secret, anything that looks like a JWT, and the values of
// parameters that hold credentials out of text. It is safe for concurrent use.
type Redactor struct {
	needles []string // the secret, also without what looks like an escape in it; none is empty
}

// New returns a Redactor for secret, which may be empty.
func New(secret string) *Redactor {
	r := new(Redactor)
	trimmed := strings.TrimSpace(secret) // as a header's value is, and much else
	if len(secret) >= minSecret && trimmed != "" {
		r.needles = append(r.needles, unplus.Replace(trimmed))
	}
	bare := view{text: trimmed}
	for range maxLayers {
		bare = bare.unescape()
	}
	if len(bare.text) >= minSecret {
		r.needles = append(r.needles, unplus.Replace(bare.text))
	}
	return r
}

// unplus makes one of the two ways in which a form has a space.
var unplus = strings.NewReplacer("+", " ")

// Text returns s with [Mark] in the place of what is secret, however it is
// escaped: as in a form, in JSON, in HTML, and any of these in another.
func (r *Redactor) Text(s string) string {
	end := len(s)
	if end > maxText {
		s, end = Cut(s, maxText), maxText-maxEcho
	}
	v := view{text: s}
	found := r.find(v)
	for range maxLayers {
		inner := v.unescape()
		if inner.text == v.text {
			break
		}
		v = inner
		found = append(found, r.find(v)...)
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })

	var b strings.Builder
	done := 0
	for _, f := range found {
		if f.from >= end {
			break
		}
		if f.from >= done {
			b.WriteString(s[done:f.from] + Mark)
		}
		done = max(done, f.to)
	}
	if done < end {
		b.WriteString(s[done:end])
	}
	return b.String()
}

// Quote returns [Quote] of r.Text(s).
func (r *Redactor) Quote(s string, n int) string { return Quote(r.Text(s), n) }

// A span is a part of the text that a view was made of.
type span struct{ from, to int }

// find returns where v shows what is secret.
func (r *Redactor) find(v view) (found []span) {
	add := func(from, to int) { found = append(found, span{v.origin(from), v.origin(to)}) }
	text := unplus.Replace(v.text)
	for _, needle := range r.needles {
		for from := 0; ; from++ { // they may overlap
			i := strings.Index(text[from:], needle)
			if i < 0 {
				break
			}
			from += i
			add(from, from+len(needle))
		}
	}
	for _, m := range jwtLike.FindAllStringIndex(v.text, -1) {
		add(m[0], m[1])
	}
	for _, m := range credential.FindAllStringSubmatchIndex(v.text, -1) {
		add(m[2], m[3])
	}
	return found
}

// A view is a text some of whose escapes are undone.
type view struct {
	text string
	at   []int // where each byte of text was, and the end, before anything was undone; nil: where they are
}

func (v view) origin(i int) int {
	if v.at == nil {
		return i
	}
	return v.at[i]
}

// escape matches a character that is escaped in a form, in HTML, in JSON or in
// the syntax of a string.
var escape = regexp.MustCompile(`(?s)%[[:xdigit:]]{2}|&(?:#[0-9]{1,7}|#[xX][[:xdigit:]]{1,6}|[A-Za-z][0-9A-Za-z]{1,31});|` +
	`\\u[dD][89abAB][[:xdigit:]]{2}\\u[dD][c-fC-F][[:xdigit:]]{2}|\\u[[:xdigit:]]{4}|\\x[[:xdigit:]]{2}|\\.`)

// unescape undoes the outermost escapes.
func (v view) unescape() view {
	if !strings.ContainsAny(v.text, `%&\`) { // as most have none
		return v
	}
	var text strings.Builder
	at := make([]int, 0, len(v.text)+1)
	done := 0
	keep := func(end int) {
		text.WriteString(v.text[done:end])
		for ; done < end; done++ {
			at = append(at, v.origin(done))
		}
	}
	for _, m := range escape.FindAllStringIndex(v.text, -1) {
		c := character(v.text[m[0]:m[1]])
		if c == v.text[m[0]:m[1]] { // an & and a word
			continue
		}
		keep(m[0])
		text.WriteString(c)
		for range len(c) {
			at = append(at, v.origin(m[0]))
		}
		done = m[1]
	}
	keep(len(v.text))
	return view{text.String(), append(at, v.origin(len(v.text)))}
}

// character returns what an escape stands for.
func character(escape string) (c string) {
	switch {
	case escape[0] == '&':
		return html.UnescapeString(escape)
	case escape[0] == '%' || escape[1] == 'x' && len(escape) == 4:
		octet, _ := hex.DecodeString(escape[len(escape)-2:])
		return string(octet)
	case escape[1] == 'u' && json.Unmarshal([]byte(`"`+escape+`"`), &c) == nil:
		return c
	}
	return escape[1:]
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
