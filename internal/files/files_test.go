package files_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

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
	const convert = "openssl pkey -inform DER -in FILE, PKCS #12 with openssl pkcs12 -in FILE -nocerts -nodes"
	const inspect = "openssl pkey -in FILE -noout -text_pub"
	x25519 := pkcs8(asn1.ObjectIdentifier{1, 3, 101, 110}, append([]byte{4, 32}, rsaPKCS1[:32]...))
	legacy := pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: rsaPKCS1}
	pss := pkcs8(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, rsaPKCS1)
	for _, tt := range []struct{ name, text, what, command string }{
		{"encrypted", block("ENCRYPTED PRIVATE KEY", rsaPKCS1), "is encrypted", "openssl pkey -in FILE -out NEWFILE"},
		{"encrypted by openssl 1 or ssh-keygen -m PEM", string(pem.EncodeToMemory(&legacy)), "is encrypted", "openssl pkey -in FILE -out NEWFILE"},
		{"in OpenSSH's format", block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00none")), "OpenSSH's own format", "ssh-keygen -p -N '' -m PKCS8 -f COPY"},
		{"restricted to RSA-PSS", block("PRIVATE KEY", pss), "restricted to RSA-PSS", "openssl genpkey -algorithm RSA"},
		{"the same by openssl rsa -traditional", block("RSA-PSS PRIVATE KEY", rsaPKCS1), "restricted to RSA-PSS", "openssl genpkey -algorithm RSA"},
		{"a public key", public, "a public key", "openssl genpkey"},
		{"a public RSA key by openssl 1", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(kit.RSA().Public().(*rsa.PublicKey))), "a public key", "openssl genpkey"},
		{"two keys", edPKCS8 + ecSEC1, "two private keys", "openssl pkey -in FILE"},
		{"X25519", block("PRIVATE KEY", x25519), "cannot sign", "openssl genpkey -algorithm ed25519"},
		{"DSA", block("DSA PRIVATE KEY", rsaPKCS1), "cannot be parsed", inspect},
		{"Ed448", block("PRIVATE KEY", pkcs8(asn1.ObjectIdentifier{1, 3, 101, 113}, rsaPKCS1[:59])), "cannot be parsed", inspect},
		{"broken", block("RSA PRIVATE KEY", rsaPKCS1[:len(rsaPKCS1)-1]), "cannot be parsed", inspect},
		{"broken base64", strings.Replace(rsaPKCS8, "MII", "M!I", 1), "are its line ends missing", inspect},
		{"on one line", strings.ReplaceAll(rsaPKCS8, "\n", " "), "are its line ends missing", inspect},
		{"cut off", rsaPKCS8[:len(rsaPKCS8)/2], "PEM of the key is broken", inspect},
		{"DER", string(rsaPKCS1), "no private key in PEM", convert},
		{"PKCS #12", "0\x82\x0a\x10\x02\x01\x030\x82\x09\xc6\x06\x09", "no private key in PEM", convert},
		{"a certificate", string(kit.CertificatePEM(kit.Certificate(t, "acme", kit.RSA(), nil))), "no private key in PEM", convert},
		{"nothing", "", "no private key in PEM", convert},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "X25519" && fips140.Enabled() {
				t.Skip("FIPS mode may refuse to parse it")
			}
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

func TestASecretIsTheFileWithoutOneLineEnd(t *testing.T) {
	most := strings.Repeat("s", 64<<10)
	for _, tt := range []struct{ name, text, want string }{
		{"no line end", "secret", "secret"},
		{"a line end", "secret\n", "secret"},
		{"CRLF", "secret\r\n", "secret"},
		{"two line ends", "secret\n\n", "secret\n"},
		{"CR", "secret\r", "secret\r"},
		{"blanks and line ends within", " a\nb \n", " a\nb "},
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
		{"a line end", kit.File(t, "\n"), "is empty"},
		{"CRLF", kit.File(t, "\r\n"), "is empty"},
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
			want := tt.want
			if tt.want == "is empty" && name != "secret" {
				want = "no private key"
			}
			if err := read(tt.path); err == nil || !strings.Contains(err.Error(), tt.path) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s as a %s: got error %v; want %q with the path", tt.name, name, err, want)
			}
		}
	}
}

// Whoever sets a path to the secret or key itself finds it in no log.
func TestAPathThatMayBeASecretIsNotShown(t *testing.T) {
	for _, path := range []string{edPKCS8, "a/secret/in/base64", "/9dGZ2hJ+Kl3vQ0mZ8xR7w==", "/9dG/Z2hJ+Kl3vQ0mZ8xR7w=", "secret\n", strings.Repeat("s", 5000)} {
		for _, read := range []func(string) error{
			func(path string) error { _, err := files.Secret(path); return err },
			func(path string) error { _, err := files.Key(path); return err },
		} {
			err := read(path)
			if err == nil || !regexp.MustCompile(`^(ClientSecret|PrivateKey): (no such file or directory|file name too long)$`).MatchString(err.Error()) {
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
		{"another key", chain, another, "private key "},
		{"an absent key file", chain, chain + ".key", "no such file"},
		{"an encrypted key", chain, kit.File(t, block("ENCRYPTED PRIVATE KEY", rsaPKCS1)), "openssl pkey -in FILE -out NEWFILE"},
		{"no certificate in it", key, key, "certificate"},
	} {
		if _, err := files.Pair(tt.cert, tt.key); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.cert) && !strings.Contains(err.Error(), tt.key) {
			t.Errorf("%s: got error %v; want %q with a path", tt.name, err, tt.want)
		}
	}
}
