// Package files reads secrets, private keys and certificates from files.
package files

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"example.com/mosaic/internal/redact"
)

// maxSize bounds a file. A chain of certificates has some KiB.
const maxSize = 64 << 10

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
	if err != nil {
		if filepath.IsAbs(path) {
			field += " " + strconv.Quote(redact.Cut(path, 300))
		}
		return parsed, fmt.Errorf("%s: %w", field, err)
	}
	return parsed, nil
}

// bom is the byte order mark, with which Windows editors begin a text.
var bom = []byte("\ufeff")

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
	if len(data) > maxSize {
		return nil, errors.New("more than 64 KiB")
	}
	return bytes.TrimPrefix(data, bom), err
}

// Secret returns the contents of a file without one line end at its end.
func Secret(path string) (string, error) {
	return read("ClientSecret", path, func(data []byte) (string, error) {
		secret, line := strings.CutSuffix(string(data), "\n")
		if line {
			secret = strings.TrimSuffix(secret, "\r")
		}
		if secret == "" {
			return "", errors.New("the file is empty")
		}
		return secret, nil
	})
}

// Key returns the private key of a PEM file.
func Key(path string) (crypto.Signer, error) { return read("PrivateKey", path, ParseKey) }

// Pair returns the certificate chain of one PEM file with the private key of another.
func Pair(certPath, keyPath string) (*tls.Certificate, error) {
	keyPEM, err := read("CertificateKey", keyPath, func(data []byte) ([]byte, error) {
		_, err := ParseKey(data) // for its error
		return data, err
	})
	if err != nil {
		return nil, err
	}
	return read("Certificate", certPath, func(data []byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(data, keyPEM)
		if err == nil && pair.Leaf == nil { // with GODEBUG=x509keypairleaf=0
			pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
		}
		return &pair, err
	})
}

// errUnparsed is also for kinds unknown to crypto/x509: secp256k1, Ed448, explicit parameters.
var errUnparsed = errors.New("the key cannot be parsed: openssl pkey -in FILE -noout -text_pub tells its kind (want RSA, P-256 or Ed25519), or that it is broken")

// ParseKey returns the only private key in PEM data. The errors name a command to run, and hold
// nothing of the data.
func ParseKey(data []byte) (key crypto.Signer, err error) {
	none := errors.New("there is no private key in PEM: convert DER with openssl pkey -inform DER -in FILE, PKCS #12 with openssl pkcs12 -in FILE -nocerts -nodes")
	for block, rest := pem.Decode(bytes.TrimPrefix(data, bom)); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		switch {
		case block.Type == "OPENSSH PRIVATE KEY":
			return nil, errors.New("the key is in OpenSSH's own format: ssh-keygen -p -N '' -m PKCS8 -f COPY converts a copy of an RSA or ECDSA key, openssl genpkey -algorithm ed25519 makes another Ed25519 key")
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("the key is encrypted: decrypt it with openssl pkey -in FILE -out NEWFILE")
		case block.Type == "PRIVATE KEY" && bytes.Contains(block.Bytes, oidPSS), block.Type == "RSA-PSS PRIVATE KEY":
			return nil, errors.New("the key is restricted to RSA-PSS, which crypto/x509 does not read: make an unrestricted one with openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048")
		case block.Type == "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case strings.HasSuffix(block.Type, "PUBLIC KEY"):
			none = errors.New("this is a public key: want the private key file that openssl genpkey wrote")
			continue
		case strings.HasSuffix(block.Type, "PRIVATE KEY"): // such as DSA
			return nil, errUnparsed
		default: // EC PARAMETERS, CERTIFICATE
			continue
		}
		signer, ok := parsed.(crypto.Signer)
		switch {
		case err != nil:
			return nil, errUnparsed
		case !ok:
			return nil, errors.New("this is an X25519 key, which cannot sign: make one with openssl genpkey -algorithm ed25519")
		case key != nil:
			return nil, errors.New("there are two private keys: keep one, as printed by openssl pkey -in FILE")
		}
		key = signer
	}
	switch {
	case key == nil && bytes.Contains(data, []byte("PRIVATE KEY-----")):
		return nil, errors.New("the PEM of the key is broken (are its line ends missing?): openssl pkey -in FILE -noout -text_pub tells whether it is whole")
	case key == nil:
		return nil, none
	}
	return key, nil
}

// oidPSS is id-RSASSA-PSS, 1.2.840.113549.1.1.10, in DER.
var oidPSS = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a}
