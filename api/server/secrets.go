package server

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Token gives the token in the file at path, which is made when it is missing: 32 random bytes in base64, mode 0600. A
// file that everybody can read is refused, since the token in it is no secret any more.
func Token(path string) (string, error) {
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		var random [32]byte
		rand.Read(random[:])
		token := base64.RawURLEncoding.EncodeToString(random[:])
		return token, writeFile(path, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 20 {
		return "", fmt.Errorf("token in %s is too short to be safe: delete the file to get a new one", path)
	}
	return token, nil
}

// readPrivate reads a file that must not be readable for everybody, nor writable for a group.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): it must be replaced, delete it to get a new one; "+
			"or run chmod 600 on it when nobody else can have read it", path, mode)
	}
	return os.ReadFile(path)
}

// writeFile makes the file whole or not at all, even when the power fails.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = bytes.NewReader(data).WriteTo(f)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
