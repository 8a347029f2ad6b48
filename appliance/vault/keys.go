package vault

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// maxKeyFile bounds what is read: some hundred keys. There is one, and during a rotation there are two.
const maxKeyFile = 16 << 10

// key seals and opens secrets. Its id says which key a sealed secret needs, and nothing of the key.
type key struct {
	id    string // 8 hexadecimal digits
	bytes []byte
}

func newKey() key {
	var id [4]byte
	k := key{bytes: make([]byte, chacha20poly1305.KeySize)}
	rand.Read(id[:])
	rand.Read(k.bytes)
	k.id = hex.EncodeToString(id[:])
	return k
}

// keyFileHead begins each key file, for the person who finds it.
const keyFileHead = `# Understudy seals the passwords that it keeps with the last of these keys. Keep a copy apart from the copies of the
# state; without this file they must be entered again. "understudy rotate-key" replaces the key.
`

// encodeKeys is the content of a key file: a line for each key, oldest first.
func encodeKeys(keys []key) []byte {
	b := bytes.NewBufferString(keyFileHead)
	for _, k := range keys {
		fmt.Fprintf(b, "%s %s\n", k.id, base64.StdEncoding.EncodeToString(k.bytes))
	}
	return b.Bytes()
}

// decodeKeys reads what encodeKeys wrote. Its errors hold nothing of the content.
func decodeKeys(data []byte) ([]key, error) {
	var keys []key
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, encoded, _ := strings.Cut(line, " ")
		raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(encoded))
		if _, hexErr := hex.DecodeString(id); hexErr != nil || len(id) != 8 || err != nil || len(raw) != chacha20poly1305.KeySize {
			return nil, fmt.Errorf("line %d is no key", n)
		}
		if slices.ContainsFunc(keys, func(k key) bool { return k.id == id }) {
			return nil, fmt.Errorf("line %d has the id of another key", n)
		}
		keys = append(keys, key{id, raw})
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

// readKeys reads a key file; fs.ErrNotExist when there is none.
func readKeys(path string) ([]key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, errors.New("it is no file")
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("it is open to others (mode %04o, not 0600)", mode.Perm())
	case info.Size() > maxKeyFile:
		return nil, errors.New("it is too large for a key file")
	}
	data := make([]byte, info.Size())
	if n, err := f.ReadAt(data, 0); err != nil && n < len(data) {
		return nil, err
	}
	return decodeKeys(data)
}

// writeKeys replaces the key file, durable when it returns: whole or not at all.
func writeKeys(path string, keys []key) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if gone := os.Remove(f.Name()); !errors.Is(gone, fs.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
	}()
	_, err = f.Write(encodeKeys(keys))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
