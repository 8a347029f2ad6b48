package support

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"understudy/api"
	"understudy/appliance/vault"
)

// Format of a backup. A newer one is refused, and so is a bucket that this version does not know.
const format = 1

const (
	// workFactor of scrypt: about a second and 256 MB for each try at a passphrase.
	workFactor = 18
	// maxContent bounds what a backup may unpack to.
	maxContent = 256 << 20
)

// Kept is a bucket of the state that a backup has.
type Kept struct {
	Bucket string
	// Restored gives a value as it must be after it came back from a backup that was made then. It fails when the value is
	// none of this bucket. Nil: any value may come back as it is.
	Restored func(value json.RawMessage, made time.Time) (json.RawMessage, error)
}

// Configuration says what is kept of the state, bucket by bucket.
type Configuration struct {
	Kept []Kept
	// Forgotten buckets are emptied by a restore: they belong to the configuration that goes.
	Forgotten []string
	// Staying buckets are left alone: they say what has happened here.
	Staying []string
}

// Knows tells whether it is decided what becomes of a bucket.
func (c Configuration) Knows(bucket string) bool {
	return bucket == vault.Bucket || c.kept(bucket) != nil || slices.Contains(c.Forgotten, bucket) || slices.Contains(c.Staying, bucket)
}

func (c Configuration) kept(bucket string) *Kept {
	if i := slices.IndexFunc(c.Kept, func(k Kept) bool { return k.Bucket == bucket }); i >= 0 {
		return &c.Kept[i]
	}
	return nil
}

// content is what is in a backup: compressed with gzip, then encrypted with age and a passphrase, so that the tool of that
// name opens it too.
type content struct {
	Format    int                                   `json:"format"`
	Made      time.Time                             `json:"made"`
	Version   string                                `json:"version"`
	Appliance string                                `json:"appliance"`
	Buckets   map[string]map[string]json.RawMessage `json:"buckets"`
	Secrets   map[string]string                     `json:"secrets"`
	// Missing are secrets that could not be read.
	Missing []string `json:"missing,omitempty"`
}

// Backup writes the configuration to w.
func (s *Support) Backup(_ context.Context, o api.BackupOrder, w io.Writer) error {
	if err := o.Validate(); err != nil {
		return err
	}
	c, err := s.collect()
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return encrypt(c, o.Passphrase, s.workFactor, w)
}

func (s *Support) collect() (content, error) {
	c := content{Format: format, Made: s.Clock().UTC(), Version: s.Version, Buckets: map[string]map[string]json.RawMessage{}, Secrets: map[string]string{}}
	for _, k := range s.Configuration.Kept {
		values := map[string]json.RawMessage{}
		err := s.State.Each(k.Bucket, func(key string, decode func(any) error) error {
			var value json.RawMessage
			err := decode(&value)
			values[key] = value
			return err
		})
		if err != nil {
			return c, err
		}
		c.Buckets[k.Bucket] = values
	}
	for _, name := range s.Vault.Names() {
		secret, err := s.Vault.Get(name)
		switch {
		case errors.Is(err, vault.ErrNotFound): // deleted meanwhile
		case err != nil:
			c.Missing = append(c.Missing, name)
		default:
			c.Secrets[name] = secret.Reveal()
		}
	}
	if owner, ok := c.Buckets["system"]["owner"]; ok {
		_ = json.Unmarshal(owner, &c.Appliance) // it is for people to look at
	}
	return c, nil
}

func encrypt(c content, passphrase api.Secret, work int, w io.Writer) error {
	to, err := age.NewScryptRecipient(passphrase.Reveal())
	if err != nil {
		return err
	}
	to.SetWorkFactor(work)
	sealed, err := age.Encrypt(w, to)
	if err != nil {
		return err
	}
	packed := gzip.NewWriter(sealed)
	err = json.NewEncoder(packed).Encode(c)
	return errors.Join(err, packed.Close(), sealed.Close())
}

// notABackup is the answer to everything that is not what Backup wrote. Nothing of what was decrypted is in it.
func notABackup(format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalid, Field: "data", Message: "this is no backup of a configuration, or it is damaged: " + fmt.Sprintf(format, args...),
		Hint: "Give the file as it was written. Nothing was changed."}
}

// decrypt reads a backup in full.
func decrypt(data []byte, passphrase api.Secret) (content, error) {
	identity, err := age.NewScryptIdentity(passphrase.Reveal())
	if err != nil {
		return content{}, err
	}
	identity.SetMaxWorkFactor(workFactor) // more would be somebody else's file, and take all memory
	if !bytes.HasPrefix(data, []byte("age-encryption.org/v1\n")) {
		return content{}, notABackup("it does not begin as one")
	}
	plain, err := age.Decrypt(bytes.NewReader(data), identity)
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) || errors.Is(err, age.ErrIncorrectIdentity) {
		return content{}, &api.Error{Code: api.CodeInvalid, Field: "passphrase", Message: "the passphrase does not open this backup",
			Hint: "Give the one that it was made with. Nothing was changed."}
	}
	if err != nil {
		return content{}, notABackup("its head cannot be read")
	}
	unpacked, err := gzip.NewReader(plain)
	if err != nil {
		return content{}, notABackup("it cannot be unpacked")
	}
	text, err := io.ReadAll(io.LimitReader(unpacked, maxContent+1))
	if err != nil {
		return content{}, notABackup("it is cut off, or was changed")
	}
	if len(text) > maxContent {
		return content{}, notABackup("it is too large")
	}
	return decode(text)
}

func decode(text []byte) (content, error) {
	var head struct {
		Format  int    `json:"format"`
		Version string `json:"version"`
	}
	if json.Unmarshal(text, &head) != nil || head.Format < 1 {
		return content{}, notABackup("its content cannot be read")
	}
	if head.Format > format {
		return content{}, newer(head.Version)
	}
	var c content
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return content{}, notABackup("its content cannot be read")
	}
	return c, nil
}

func newer(version string) error {
	return &api.Error{Code: api.CodeConflict, Field: "data", Message: "the backup was made by a newer version (" + strings.TrimSpace(version) + ")",
		Hint: "Install that version or a newer one, then restore again. Nothing was changed."}
}
