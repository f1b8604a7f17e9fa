// Package files reads secrets, private keys and certificates from files. If a file contains something
// else, the error says what it is, and names the command that makes the right file.
package files

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"example.com/mosaic/internal/mtls"
	"example.com/mosaic/internal/redact"
)

// Secret returns the contents of a file without leading and trailing white space, because tools and
// editors add a trailing newline.
func Secret(path string) (string, error) {
	return read("ClientSecret", path, func(data []byte) (string, error) {
		if json.Valid(data) && bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
			return "", errors.New("this is a JSON object: extract the member with the secret, for example with jq -r .client_secret FILE >NEWFILE")
		}
		return string(bytes.TrimSpace(data)), nil
	})
}

// Key returns the private key in a PEM file.
func Key(path string) (crypto.Signer, error) { return read("PrivateKey", path, ParseKey) }

// Pair returns the certificate chain in one PEM file with the private key in another.
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
	shown := "(a relative path)"
	if filepath.IsAbs(path) {
		shown = strconv.Quote(redact.Cut(path, 300))
	}
	return parsed, fmt.Errorf("%s %s: %w", field, shown, err)
}

// contents returns the contents of a regular file. It refuses other kinds of files, because reading
// from a FIFO, for example, may block for ever.
func contents(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > 64<<10: // a certificate chain is a few KiB
		return nil, errors.New("more than 64 KiB")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if data, err = text(data); err == nil && len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the file is empty, or holds only white space")
	}
	return data, err
}

// text returns data without the byte order mark that Windows editors prepend to UTF-8.
func text(data []byte) ([]byte, error) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, errors.New("this is text in UTF-16, as PowerShell writes it: convert it with iconv -f UTF-16 -t UTF-8 FILE >NEWFILE")
	}
	return bytes.TrimPrefix(data, []byte("\ufeff")), nil
}

// oidPSS is id-RSASSA-PSS, 1.2.840.113549.1.1.10, in DER.
var oidPSS = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a}

// ParseKey returns the only private key in PEM data. Its errors quote no key material.
func ParseKey(data []byte) (key crypto.Signer, err error) {
	if data, err = text(data); err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		switch {
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"): // such as EC PARAMETERS and CERTIFICATE
			continue
		case block.Type == "OPENSSH PRIVATE KEY":
			return nil, errors.New("the key is in OpenSSH's own format: ssh-keygen -p -N '' -m PKCS8 -f COPY converts a copy of an RSA or ECDSA key, openssl genpkey -algorithm ed25519 makes another Ed25519 key")
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("the key is encrypted: decrypt it with openssl pkey -in FILE -out NEWFILE")
		case block.Type == "RSA-PSS PRIVATE KEY", bytes.Contains(block.Bytes, oidPSS):
			return nil, errors.New("the key is restricted to RSA-PSS, which crypto/x509 does not read: make an unrestricted key with openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out NEWFILE")
		case block.Type == "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		signer, ok := parsed.(crypto.Signer)
		switch {
		case err != nil, !ok: // X25519 cannot sign
			return nil, errors.New("the key cannot be parsed: openssl pkey -in FILE -noout -text_pub shows its kind (which must be RSA, P-256 or Ed25519), or that it is broken")
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

// unfit returns the error for data without the wanted PEM block. The error says what the data is and
// how to get the block. It quotes none of the data except the type of an unexpected PEM block.
func unfit(data []byte, want string) error {
	is, key, cert := "not PEM", "the private key is in another file, which openssl genpkey or openssl req -keyout wrote",
		"the certificate is in another file; openssl req -x509 -new -key KEYFILE -subj /CN=NAME -days 365 -out NEWFILE makes a self-signed certificate"
	var der struct{ First asn1.RawValue }
	_, notDER := asn1.Unmarshal(data, &der)
	_, notCert := x509.ParseCertificate(data)
	block, _ := pem.Decode(data)
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("LS0tLS1CRUdJ")): // -----BEGI
		is, key = "the base64 of PEM, as in a Kubernetes Secret", "decode it with base64 -d FILE >NEWFILE"
		cert = key
	case bytes.Contains(data, []byte(`"kty"`)):
		is, key = "a JWK", "make another key with openssl genpkey -algorithm ed25519 -out NEWFILE"
	case bytes.Contains(data, []byte(want)):
		is, key = "broken PEM", "copy the file again, with all of its lines and their line ends"
		cert = key
	case bytes.HasPrefix(data, []byte("\xfe\xed\xfe\xed")):
		is, key = "a Java keystore", "convert it to PKCS #12 with keytool -importkeystore -srckeystore FILE -destkeystore NEWFILE -deststoretype PKCS12"
		cert = key
	case notCert == nil:
		is, cert = "a certificate in DER", "convert it with openssl x509 -inform DER -in FILE -out NEWFILE"
	case notDER == nil && der.First.Tag == asn1.TagOID:
		is, cert = "PKCS #7 in DER", "convert it with openssl pkcs7 -inform DER -print_certs -in FILE -out NEWFILE"
	case notDER == nil && bytes.Equal(der.First.Bytes, []byte{3}): // the version
		is, key = "PKCS #12", "convert it with openssl pkcs12 -in FILE -nocerts -nodes -out NEWFILE"
		cert = "convert it with openssl pkcs12 -in FILE -nokeys -out NEWFILE"
	case notDER == nil:
		is, key = "DER", "convert it with openssl pkey -inform DER -in FILE -out NEWFILE"
	case block != nil:
		kind := strings.TrimPrefix(block.Type, "NEW ") // keytool writes NEW CERTIFICATE REQUEST
		is = fmt.Sprintf("PEM of type %.40q", kind)
		switch kind {
		case "PKCS7":
			cert = "convert it with openssl pkcs7 -print_certs -in FILE -out NEWFILE"
		case "TRUSTED CERTIFICATE":
			cert = "convert it with openssl x509 -in FILE -out NEWFILE"
		case "CERTIFICATE REQUEST":
			cert = "a CA makes the certificate from it; openssl x509 -req -in FILE -signkey KEYFILE -days 365 -out NEWFILE makes a self-signed certificate"
		}
	}
	if want == wantCert {
		key = cert
	}
	return fmt.Errorf("this is %s: %s", is, key)
}
