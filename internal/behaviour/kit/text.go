package kit

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"unicode"
)

// Run runs a subtest in a synctest bubble.
func Run(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// JWT returns a JWT with this payload, formatted as by fmt.Sprintf, and without a valid signature.
func JWT(format string, args ...any) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(fmt.Appendf(nil, format, args...)) + ".c2ln"
}

// OneLine fails the test unless the text of err is a single printable line that begins with
// "mosaic: " and is no longer than most bytes.
func OneLine(t testing.TB, err error, most int) {
	t.Helper()
	text := err.Error()
	if !strings.HasPrefix(text, "mosaic: ") || len(text) > most || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("got an error of %d bytes: %.500q; want a line that begins with mosaic:, of %d bytes at most", len(text), text, most)
	}
}

// NoSecret fails the test if one of secrets is in the text of err by any verb of package fmt, or in a
// string that reflection can reach from err. It reports the index of the secret, but not the secret.
func NoSecret(t testing.TB, err error, secrets ...string) {
	t.Helper()
	seek := func(where, text string) {
		for i, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("[found] secret %d in err%s", i, where)
			}
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
		seek(" by "+verb, fmt.Sprintf(verb, err))
	}
	reachable(reflect.ValueOf(err), "", make(map[uintptr]bool), seek)
}

// reachable calls visit with each string that can be reached from v, even through unexported fields.
func reachable(v reflect.Value, where string, seen map[uintptr]bool, visit func(where, text string)) {
	switch v.Kind() {
	case reflect.String:
		visit(where, v.String())
	case reflect.Interface:
		reachable(v.Elem(), where, seen, visit)
	case reflect.Pointer:
		if !seen[v.Pointer()] {
			seen[v.Pointer()] = true
			reachable(v.Elem(), where, seen, visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			reachable(v.Field(i), where+"."+v.Type().Field(i).Name, seen, visit)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			reachable(key, where+"[key]", seen, visit)
			reachable(v.MapIndex(key), where+"[value]", seen, visit)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			visit(where, string(v.Bytes()))
			return
		}
		for i := range v.Len() {
			reachable(v.Index(i), where+"[]", seen, visit)
		}
	}
}
