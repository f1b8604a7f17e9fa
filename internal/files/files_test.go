package files_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"example.com/mosaic/internal/behaviour/kit"
	"example.com/mosaic/internal/files"
)

// must returns what a function of crypto/x509 does.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pkcs8 returns a private key of a kind that crypto/x509 does not write.
func pkcs8(algorithm asn1.ObjectIdentifier, key []byte) []byte {
	return must(asn1.Marshal(struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}{0, pkix.AlgorithmIdentifier{Algorithm: algorithm}, key}))
}

var (
	rsaPKCS1 = x509.MarshalPKCS1PrivateKey(kit.RSA().(*rsa.PrivateKey))
	rsaPKCS8 = block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(kit.RSA())))
	ecSEC1   = block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(kit.EC().(*ecdsa.PrivateKey))))
	edPKCS8  = block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(kit.Ed25519())))
	public   = block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(kit.RSA().Public())))
)

func TestKeysOfCommonToolsAreRead(t *testing.T) {
	certificate := string(kit.CertificatePEM(kit.Certificate(t, "acme", kit.RSA(), nil)))
	const bag = "Bag Attributes\n    friendlyName: acme\n    localKeyID: 54 69 6D 65\nKey Attributes: <No Attributes>\n"
	for _, tt := range []struct {
		name, text string
		want       crypto.Signer
	}{
		{"openssl genpkey, RSA", rsaPKCS8, kit.RSA()},
		{"openssl genpkey, P-256", block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(kit.EC()))), kit.EC()},
		{"openssl genpkey, Ed25519", edPKCS8, kit.Ed25519()},
		{"openssl 1 genrsa, ssh-keygen -m PEM, cert-manager", block("RSA PRIVATE KEY", rsaPKCS1), kit.RSA()},
		{"cert-manager, P-256", ecSEC1, kit.EC()},
		{"openssl ecparam -genkey", block("EC PARAMETERS", must(asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}))) + ecSEC1, kit.EC()},
		{"openssl pkcs12, of a Java keystore", bag + rsaPKCS8 + bag + certificate, kit.RSA()},
		{"openssl pkey -text", rsaPKCS8 + "Private-Key: (2048 bit, 2 primes)\nmodulus:\n    00:c1\n", kit.RSA()},
		{"a certificate first", certificate + certificate + rsaPKCS8, kit.RSA()},
		{"the public key, too", public + rsaPKCS8 + public, kit.RSA()},
		{"lines that end with CRLF", strings.ReplaceAll(rsaPKCS8, "\n", "\r\n"), kit.RSA()},
		{"a byte order mark", "\ufeff" + edPKCS8, kit.Ed25519()},
		{"no line end at the end", strings.TrimSpace(edPKCS8), kit.Ed25519()},
	} {
		if key, err := files.ParseKey([]byte(tt.text)); err != nil || !tt.want.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: got a %T, error %v; want the key", tt.name, key, err)
		}
		if _, err := files.Key(kit.File(t, tt.text)); err != nil {
			t.Errorf("%s, of a file: got error %v", tt.name, err)
		}
	}
}

func TestTheErrorForAKeySaysWhatItIsAndWhichCommandHelps(t *testing.T) {
	const (
		inspect = "openssl pkey -in FILE -noout -text_pub"
		again   = "copy the file again"
	)
	x25519 := pkcs8(asn1.ObjectIdentifier{1, 3, 101, 110}, append([]byte{4, 32}, rsaPKCS1[:32]...))
	legacy := pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: rsaPKCS1}
	pss := pkcs8(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, rsaPKCS1)
	for _, tt := range []struct{ name, text, what, command string }{
		{"encrypted", block("ENCRYPTED PRIVATE KEY", rsaPKCS1), "is encrypted", "openssl pkey -in FILE -out NEWFILE"},
		{"encrypted by openssl 1 or ssh-keygen -m PEM", string(pem.EncodeToMemory(&legacy)), "is encrypted", "openssl pkey -in FILE -out NEWFILE"},
		{"in OpenSSH's format", block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00none")), "OpenSSH's own format", "ssh-keygen -p -N '' -m PKCS8 -f COPY"},
		{"restricted to RSA-PSS", block("PRIVATE KEY", pss), "restricted to RSA-PSS", "openssl genpkey -algorithm RSA"},
		{"the same by openssl rsa -traditional", block("RSA-PSS PRIVATE KEY", rsaPKCS1), "restricted to RSA-PSS", "openssl genpkey -algorithm RSA"},
		{"a public key", public, `this is PEM of type "PUBLIC KEY"`, "openssl genpkey"},
		{"a public RSA key by openssl 1", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(kit.RSA().Public().(*rsa.PublicKey))), `this is PEM of type "RSA PUBLIC KEY"`, "openssl genpkey"},
		{"two keys", edPKCS8 + ecSEC1, "two private keys", "openssl pkey -in FILE"},
		{"X25519", block("PRIVATE KEY", x25519), "cannot be parsed", inspect},
		{"DSA", block("DSA PRIVATE KEY", rsaPKCS1), "cannot be parsed", inspect},
		{"Ed448", block("PRIVATE KEY", pkcs8(asn1.ObjectIdentifier{1, 3, 101, 113}, rsaPKCS1[:59])), "cannot be parsed", inspect},
		{"broken", block("RSA PRIVATE KEY", rsaPKCS1[:len(rsaPKCS1)-1]), "cannot be parsed", inspect},
		{"broken base64", strings.Replace(rsaPKCS8, "MII", "M!I", 1), "broken PEM", again},
		{"on one line", strings.ReplaceAll(rsaPKCS8, "\n", " "), "broken PEM", again},
		{"cut off", rsaPKCS8[:len(rsaPKCS8)/2], "broken PEM", again},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, err := files.ParseKey([]byte(tt.text))
			if err == nil || key != nil || !strings.Contains(err.Error(), tt.what) || !strings.Contains(err.Error(), tt.command) {
				t.Fatalf("got a %T and error %v; want one that says %q and names %q", key, err, tt.what, tt.command)
			}
			for line := range strings.Lines(tt.text) {
				if line = strings.TrimSpace(line); len(line) > 10 && strings.Contains(err.Error(), line) {
					t.Error("[found] a line of the data in the error")
				}
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 250 {
				t.Errorf("got an error of %d bytes; want one short line", len(err.Error()))
			}
			path := kit.File(t, tt.text)
			if _, err := files.Key(path); err == nil || !strings.HasPrefix(err.Error(), "PrivateKey "+strconv.Quote(path)+": ") {
				t.Errorf("of a file: got error %v; want one that names field and file", err)
			}
		})
	}
}

// What people have in place of the PEM file. Real files of openssl and keytool begin like these.
func TestTheErrorForAnotherFormatNamesItAndTheCommandThatMakesTheRightFile(t *testing.T) {
	const (
		otherKey   = "the private key is in another file, which openssl genpkey or openssl req -keyout wrote"
		otherCert  = "the certificate is in another file; openssl req -x509 -new -key KEYFILE -subj /CN=NAME -days 365 -out NEWFILE makes a self-signed certificate"
		selfSigned = "a CA makes the certificate from it; openssl x509 -req -in FILE -signkey KEYFILE -days 365 -out NEWFILE makes a self-signed certificate"
		iconv      = "convert it with iconv -f UTF-16 -t UTF-8 FILE >NEWFILE"
		keystore   = "convert it to PKCS #12 with keytool -importkeystore -srckeystore FILE -destkeystore NEWFILE -deststoretype PKCS12"
		base64PEM  = "decode it with base64 -d FILE >NEWFILE"
	)
	cert := kit.Certificate(t, "acme", kit.RSA(), nil)
	certPEM, der := string(kit.CertificatePEM(cert)), string(cert.Leaf.Raw)
	request := string(must(x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), kit.RSA())))
	pkcs7 := string(must(asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content struct{ Version int } `asn1:"explicit,tag:0"`
	}{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}})))
	pkcs12 := string(must(asn1.Marshal(struct {
		Version  int
		AuthSafe []asn1.ObjectIdentifier
	}{3, []asn1.ObjectIdentifier{{1, 2, 840, 113549, 1, 7, 1}}})))
	utf16Of := func(text, mark string, order binary.AppendByteOrder) string {
		data := []byte(mark)
		for _, unit := range utf16.Encode([]rune(text)) {
			data = order.AppendUint16(data, unit)
		}
		return string(data)
	}
	for _, tt := range []struct{ name, text, is, key, cert string }{
		{"a key that PowerShell wrote", utf16Of(edPKCS8, "\xff\xfe", binary.LittleEndian), "text in UTF-16, as PowerShell writes it", iconv, iconv},
		{"a certificate in big-endian UTF-16", utf16Of(certPEM, "\xfe\xff", binary.BigEndian), "text in UTF-16, as PowerShell writes it", iconv, iconv},
		{"a key from the YAML of a Secret", base64.StdEncoding.EncodeToString([]byte(edPKCS8)), "the base64 of PEM, as in a Kubernetes Secret", base64PEM, base64PEM},
		{"the same with white space", "\n  " + base64.StdEncoding.EncodeToString([]byte(certPEM))[:64] + "\n", "the base64 of PEM, as in a Kubernetes Secret", base64PEM, base64PEM},
		{"a JWK", ` {"kty":"OKP","crv":"Ed25519","d":"bWluZQ"}`, "a JWK", "make another key with openssl genpkey -algorithm ed25519 -out NEWFILE", otherCert},
		{"a JWK Set", `{"keys":[{"kty":"RSA"}]}`, "a JWK", "make another key with openssl genpkey -algorithm ed25519 -out NEWFILE", otherCert},
		{"PKCS #12", pkcs12, "PKCS #12", "convert it with openssl pkcs12 -in FILE -nocerts -nodes -out NEWFILE", "convert it with openssl pkcs12 -in FILE -nokeys -out NEWFILE"},
		{"PKCS #7", block("PKCS7", []byte(pkcs7)), `PEM of type "PKCS7"`, otherKey, "convert it with openssl pkcs7 -print_certs -in FILE -out NEWFILE"},
		{"PKCS #7 in DER", pkcs7, "PKCS #7 in DER", otherKey, "convert it with openssl pkcs7 -inform DER -print_certs -in FILE -out NEWFILE"},
		{"an RSA key in DER", string(rsaPKCS1), "DER", "convert it with openssl pkey -inform DER -in FILE -out NEWFILE", otherCert},
		{"a key in DER, PKCS #8", string(must(x509.MarshalPKCS8PrivateKey(kit.EC()))), "DER", "convert it with openssl pkey -inform DER -in FILE -out NEWFILE", otherCert},
		{"a certificate in DER", der, "a certificate in DER", otherKey, "convert it with openssl x509 -inform DER -in FILE -out NEWFILE"},
		{"a certificate request", block("CERTIFICATE REQUEST", []byte(request)), `PEM of type "CERTIFICATE REQUEST"`, otherKey, selfSigned},
		{"a certificate request of keytool", block("NEW CERTIFICATE REQUEST", []byte(request)), `PEM of type "CERTIFICATE REQUEST"`, otherKey, selfSigned},
		{"openssl x509 -trustout", block("TRUSTED CERTIFICATE", []byte(der+"0\x00")), `PEM of type "TRUSTED CERTIFICATE"`, otherKey, "convert it with openssl x509 -in FILE -out NEWFILE"},
		{"a certificate", certPEM, `PEM of type "CERTIFICATE"`, otherKey, ""},
		{"a key", rsaPKCS8, `PEM of type "PRIVATE KEY"`, "", otherCert},
		{"a public key", public, `PEM of type "PUBLIC KEY"`, otherKey, otherCert},
		{"a certificate on one line", strings.ReplaceAll(certPEM, "\n", " "), "broken PEM", "", "copy the file again, with all of its lines and their line ends"},
		{"keytool -storetype JKS", "\xfe\xed\xfe\xed\x00\x00\x00\x02", "a Java keystore", keystore, keystore},
		{"text", "to do", "not PEM", otherKey, otherCert},
		{"JSON", `{"tls.crt":""}`, "not PEM", otherKey, otherCert},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, key := kit.File(t, tt.text), kit.File(t, rsaPKCS8)
			_, keyErr := files.Key(path)
			_, certErr := files.Pair(path, key)
			for _, got := range []struct {
				field, advice string
				err           error
			}{{"PrivateKey", tt.key, keyErr}, {"Certificate", tt.cert, certErr}} {
				want := got.field + " " + strconv.Quote(path) + ": this is " + tt.is + ": " + got.advice
				if got.advice != "" && (got.err == nil || got.err.Error() != want) {
					t.Errorf("got  %v\nwant %s", got.err, want)
				}
			}
		})
	}
}

func TestASecretIsWhatStandsBetweenWhiteSpace(t *testing.T) {
	most := strings.Repeat("s", 64<<10)
	for _, tt := range []struct{ name, text, want string }{
		{"no line end", "secret", "secret"},
		{"a line end", "secret\n", "secret"},
		{"CRLF", "secret\r\n", "secret"},
		{"two line ends", "secret\n\n", "secret"},
		{"CR", "secret\r", "secret"},
		{"blanks", " \tsecret ", "secret"},
		{"blanks and line ends within", "\na b\nc\n", "a b\nc"},
		{"JSON that is no object", "null", "null"},
		{"a brace", "{secret}", "{secret}"},
		{"a byte order mark", "\ufeffsecret\r\n", "secret"},
		{"64 KiB", most, most},
	} {
		path := kit.File(t, tt.text)
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{path, link} {
			if got, err := files.Secret(path); err != nil || got != tt.want {
				t.Errorf("%s: got %.10q and error %v; want %.10q", tt.name, got, err, tt.want)
			}
		}
	}
}

func TestAFileThatHoldsNoSecretIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, path, want string }{
		{"nothing", kit.File(t, ""), "is empty"},
		{"white space", kit.File(t, " \t\r\n\n"), "only white space"},
		{"a byte order mark and a line end", kit.File(t, "\ufeff\r\n"), "only white space"},
		{"UTF-16", kit.File(t, "\xff\xfes\x00"), "iconv -f UTF-16"},
		{"64 KiB and a byte", kit.File(t, strings.Repeat("s", 64<<10+1)), "more than 64 KiB"},
		{"a directory", dir, "not a regular file"},
		{"a device", os.DevNull, "not a regular file"},
		{"no file", filepath.Join(dir, "absent"), "no such file"},
		{"a link to nothing", func() string {
			link := filepath.Join(dir, "link")
			if err := os.Symlink("absent", link); err != nil {
				t.Fatal(err)
			}
			return link
		}(), "no such file"},
	} {
		for name, read := range map[string]func(string) error{
			"secret":      func(path string) error { _, err := files.Secret(path); return err },
			"key":         func(path string) error { _, err := files.Key(path); return err },
			"certificate": func(path string) error { _, err := files.Pair(path, path); return err },
		} {
			if err := read(tt.path); err == nil || !strings.Contains(err.Error(), tt.path) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s as a %s: got error %v; want %q with the path", tt.name, name, err, tt.want)
			}
		}
	}
}

func TestASecretIsNotAJSONObject(t *testing.T) {
	const want = ": this is a JSON object: extract the member with the secret, for example with jq -r .client_secret FILE >NEWFILE"
	for _, text := range []string{`{"client_secret":"open sesame"}`, " {\n\"a\": {\"b\": []}}\n", "{}"} {
		path := kit.File(t, text)
		if _, err := files.Secret(path); err == nil || err.Error() != "ClientSecret "+strconv.Quote(path)+want {
			t.Errorf("%s: got error %v; want %q", text, err, want)
		}
	}
}

// Whoever sets a path to the secret or key itself must not find it in a log.
func TestOnlyAnAbsolutePathIsShown(t *testing.T) {
	for _, path := range []string{edPKCS8, "a/secret/in/base64", "./secret", "secret\n", strings.Repeat("s", 5000)} {
		for _, read := range []func(string) error{
			func(path string) error { _, err := files.Secret(path); return err },
			func(path string) error { _, err := files.Key(path); return err },
		} {
			err := read(path)
			if err == nil || !regexp.MustCompile(`^(ClientSecret|PrivateKey) \(a relative path\): (no such file or directory|file name too long)$`).MatchString(err.Error()) {
				t.Errorf("got error %v; want the field's name, and nothing of the path", err)
			}
		}
	}
	_, err := files.Secret(t.TempDir() + "/\n" + strings.Repeat("s", 5000))
	if err == nil || !strings.HasPrefix(err.Error(), `ClientSecret "/`) || !strings.Contains(err.Error(), `/\ns`) || len(err.Error()) > 400 {
		t.Errorf("got error %v; want one bounded line with the path", err)
	}
}

func TestACertificateIsReadWithItsKey(t *testing.T) {
	ca := kit.Certificate(t, "CA", kit.EC(), nil)
	cert := kit.Certificate(t, "acme", kit.RSA(), ca)
	chain, key := kit.File(t, kit.CertificatePEM(cert)), kit.File(t, rsaPKCS8)
	both := kit.File(t, rsaPKCS8+string(kit.CertificatePEM(cert)))
	another := kit.File(t, edPKCS8)
	for _, paths := range [][2]string{{chain, key}, {both, both}} {
		for _, godebug := range []string{"x509keypairleaf=1", "x509keypairleaf=0"} { // the latter leaves Leaf nil
			t.Setenv("GODEBUG", godebug)
			pair, err := files.Pair(paths[0], paths[1])
			if err != nil || len(pair.Certificate) != 2 || !bytes.Equal(pair.Certificate[0], cert.Leaf.Raw) || !cert.Leaf.Equal(pair.Leaf) {
				t.Errorf("%s: got error %v; want the certificate, parsed, and its chain", godebug, err)
			}
		}
	}
	for _, tt := range []struct{ name, cert, key, want string }{
		{"another key", chain, another, ": the private key does not match it"},
		{"the leaf last", kit.File(t, slices.Concat(kit.CertificatePEM(ca), kit.CertificatePEM(cert))), key, ": the leaf has to come first, but the private key belongs to number 2 of the chain (CN=acme)"},
		{"a broken certificate", kit.File(t, block("CERTIFICATE", []byte("0"))), key, ": number 1 of the chain cannot be parsed"},
		{"an absent key file", chain, chain + ".key", "no such file"},
		{"an encrypted key", chain, kit.File(t, block("ENCRYPTED PRIVATE KEY", rsaPKCS1)), "openssl pkey -in FILE -out NEWFILE"},
		{"no certificate in it", key, key, "certificate"},
	} {
		if _, err := files.Pair(tt.cert, tt.key); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.cert) && !strings.Contains(err.Error(), tt.key) {
			t.Errorf("%s: got error %v; want %q with a path", tt.name, err, tt.want)
		}
	}
}
