// Package files reads secrets, private keys and certificates from files. If a file holds something
// else, the error says what it is, and names the command that makes the right file.
package files

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
)

// Secret returns what a file holds, without the white space at both ends, because tools and editors
// add line ends.
func Secret(path string) (string, error) {
	return read("ClientSecret", path, func(data []byte) (string, error) {
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) == nil && object != nil {
			return "", errors.New("this is a JSON object: extract the member with the secret, for example with jq -r .client_secret FILE >NEWFILE")
		}
		return string(bytes.TrimSpace(data)), nil
	})
}

// Key returns the private key of a PEM file.
func Key(path string) (crypto.Signer, error) { return read("PrivateKey", path, ParseKey) }

// Pair returns the certificate chain of one PEM file with the private key of another.
func Pair(certPath, keyPath string) (*tls.Certificate, error) {
	key, err := read("CertificateKey", keyPath, ParseKey)
	if err != nil {
		return nil, err
	}
	return read("Certificate", certPath, func(data []byte) (*tls.Certificate, error) {
		pair := &tls.Certificate{PrivateKey: key}
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				pair.Certificate = append(pair.Certificate, block.Bytes)
			}
		}
		if pair.Certificate == nil {
			return nil, unfit(data, wantCert)
		}
		var err error
		pair.Leaf, err = mtls.Leaf(pair.Certificate, key.Public())
		return pair, err
	})
}

// read returns the result of parse for the contents of the file at path. Its error names the field
// of mosaic.Files. It shows an absolute path, but not a relative path, because a relative path may
// be a secret that was set by mistake.
func read[T any](field, path string, parse func(data []byte) (T, error)) (parsed T, err error) {
	data, err := contents(path)
	if err == nil {
		parsed, err = parse(data)
	}
	if in := (*fs.PathError)(nil); errors.As(err, &in) {
		err = in.Err
	}
	if err == nil {
		return parsed, nil
	}
	if filepath.IsAbs(path) {
		field += " " + strconv.Quote(redact.Cut(path, 300))
	}
	return parsed, fmt.Errorf("%s: %w", field, err)
}

// maxSize bounds a file, in bytes. A chain of certificates has a few KiB.
const maxSize = 64 << 10

// contents returns what a regular file holds. Reading another kind of file, such as a FIFO, may block
// for ever.
func contents(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxSize:
		return nil, errors.New("more than 64 KiB")
	case len(bytes.TrimSpace(bytes.TrimPrefix(data, bom))) == 0:
		return nil, errors.New("the file is empty, or holds only white space")
	}
	return unmarked(data)
}

// bom is the byte order mark that Windows editors put in front of UTF-8.
var bom = []byte("\ufeff")

func unmarked(data []byte) ([]byte, error) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, errors.New("this is text in UTF-16, as PowerShell writes it: convert it with iconv -f UTF-16 -t UTF-8 FILE >NEWFILE")
	}
	return bytes.TrimPrefix(data, bom), nil
}

// errUnparsed is also the error for kinds of keys that crypto/x509 does not know, such as secp256k1
// and Ed448.
var errUnparsed = errors.New("the key cannot be parsed: openssl pkey -in FILE -noout -text_pub shows its kind (which must be RSA, P-256 or Ed25519), or that it is broken")

// oidPSS is id-RSASSA-PSS, 1.2.840.113549.1.1.10, in DER.
var oidPSS = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a}

// ParseKey returns the only private key in PEM data. Its errors show nothing of the data.
func ParseKey(data []byte) (key crypto.Signer, err error) {
	if data, err = unmarked(data); err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		switch {
		case block.Type == "OPENSSH PRIVATE KEY":
			return nil, errors.New("the key is in OpenSSH's own format: ssh-keygen -p -N '' -m PKCS8 -f COPY converts a copy of an RSA or ECDSA key, openssl genpkey -algorithm ed25519 makes another Ed25519 key")
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("the key is encrypted: decrypt it with openssl pkey -in FILE -out NEWFILE")
		case block.Type == "PRIVATE KEY" && bytes.Contains(block.Bytes, oidPSS), block.Type == "RSA-PSS PRIVATE KEY":
			return nil, errors.New("the key is restricted to RSA-PSS, which crypto/x509 does not read: make an unrestricted key with openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out NEWFILE")
		case block.Type == "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"): // such as DSA
			return nil, errUnparsed
		default: // such as EC PARAMETERS and CERTIFICATE
			continue
		}
		signer, ok := parsed.(crypto.Signer)
		switch {
		case err != nil:
			return nil, errUnparsed
		case !ok:
			return nil, errors.New("this is an X25519 key, which cannot sign: make another key with openssl genpkey -algorithm ed25519 -out NEWFILE")
		case key != nil:
			return nil, errors.New("there are two private keys: keep one, as printed by openssl pkey -in FILE")
		}
		key = signer
	}
	if key == nil {
		return nil, unfit(data, wantKey)
	}
	return key, nil
}

const (
	wantKey  = "PRIVATE KEY-----" // how the first line of a PEM block ends, whatever the kind of key
	wantCert = "BEGIN CERTIFICATE-----"
)

// advice says how to make PEM with a private key, or with a certificate, from what people have in its
// place. If there is no advice, what they need is in another file.
var advice = map[string]struct{ key, cert string }{
	"the base64 of PEM, as in a Kubernetes Secret": {"decode it with base64 -d FILE >NEWFILE", "decode it with base64 -d FILE >NEWFILE"},
	"a JWK": {key: "make another key with openssl genpkey -algorithm ed25519 -out NEWFILE"},
	"broken PEM (are its line ends missing?)": {"openssl pkey -in FILE -noout -text_pub shows whether it is whole", "openssl x509 -in FILE -noout -text shows whether it is whole"},
	"a certificate in DER":                    {cert: "convert it with openssl x509 -inform DER -in FILE -out NEWFILE"},
	"PKCS #7 in DER":                          {cert: "convert it with openssl pkcs7 -inform DER -print_certs -in FILE -out NEWFILE"},
	"PKCS #12":                                {"convert it with openssl pkcs12 -in FILE -nocerts -nodes -out NEWFILE", "convert it with openssl pkcs12 -in FILE -nokeys -out NEWFILE"},
	"DER":                                     {key: "convert it with openssl pkey -inform DER -in FILE -out NEWFILE"},
	`PEM of type "PKCS7"`:                     {cert: "convert it with openssl pkcs7 -print_certs -in FILE -out NEWFILE"},
	`PEM of type "TRUSTED CERTIFICATE"`:       {cert: "convert it with openssl x509 -in FILE -out NEWFILE"},
	`PEM of type "CERTIFICATE REQUEST"`:       {cert: "a CA makes the certificate from it; openssl x509 -req -in FILE -signkey KEYFILE -days 365 -out NEWFILE makes a self-signed certificate"},
}

// unfit returns the error for data without the wanted PEM block. It shows nothing of the data but
// the type of another block.
func unfit(data []byte, want string) error {
	is := kindOf(data, want)
	if want == wantKey {
		return fmt.Errorf("this is %s: %s", is, cmp.Or(advice[is].key, "the private key is in another file, which openssl genpkey or openssl req -keyout wrote"))
	}
	return fmt.Errorf("this is %s: %s", is, cmp.Or(advice[is].cert,
		"the certificate is in another file; openssl req -x509 -new -key KEYFILE -subj /CN=NAME -days 365 -out NEWFILE makes a self-signed certificate"))
}

// kindOf says what data is, in the words of advice if there is advice for it.
func kindOf(data []byte, want string) string {
	var object map[string]json.RawMessage
	var der struct{ First asn1.RawValue }
	_, notDER := asn1.Unmarshal(data, &der)
	_, notCert := x509.ParseCertificate(data)
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("LS0tLS1CRUdJ")): // -----BEGI
		return "the base64 of PEM, as in a Kubernetes Secret"
	case json.Unmarshal(data, &object) == nil && (object["kty"] != nil || object["keys"] != nil):
		return "a JWK"
	case bytes.Contains(data, []byte(want)):
		return "broken PEM (are its line ends missing?)"
	case notCert == nil:
		return "a certificate in DER"
	case notDER == nil && der.First.Tag == asn1.TagOID:
		return "PKCS #7 in DER"
	case notDER == nil && bytes.Equal(der.First.Bytes, []byte{3}): // the version
		return "PKCS #12"
	case notDER == nil:
		return "DER"
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PARAMETERS") {
			return fmt.Sprintf("PEM of type %.40q", strings.TrimPrefix(block.Type, "NEW ")) // of keytool's certificate requests
		}
	}
	return "not PEM"
}
