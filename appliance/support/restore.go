package support

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/vault"
)

// pendingFile, in the data directory, is a restore that was ordered: checked in full, with its secrets sealed. The next
// start does it.
const pendingFile = "restore.pending"

// maxKey is more than any key has, in bytes, and less than the database takes.
const maxKey = 4096

// pending is a restore that can be done without asking anybody.
type pending struct {
	ID      string                                `json:"id"`
	Made    time.Time                             `json:"made"`
	Ordered time.Time                             `json:"ordered"`
	Replace map[string]map[string]json.RawMessage `json:"replace"`
	Clear   []string                              `json:"clear"`
}

// Restore checks a backup and puts it aside for the next start.
func (s *Support) Restore(_ context.Context, o api.RestoreOrder) (api.Restoration, error) {
	if err := o.Validate(); err != nil {
		return api.Restoration{}, err
	}
	c, err := decrypt(o.Data, o.Passphrase)
	if err != nil {
		return api.Restoration{}, err
	}
	p, err := s.prepare(c)
	if err != nil {
		return api.Restoration{}, err
	}
	if err := writePending(s.DataDir, p); err != nil {
		return api.Restoration{}, fmt.Errorf("put the backup aside: %w", err)
	}
	s.Log.Warn("a restore of the configuration was ordered, it is done at the next start", "made", c.Made, "groups", len(c.Buckets["groups"]))
	return s.tell(c), nil
}

func (s *Support) tell(c content) api.Restoration {
	r := api.Restoration{Made: c.Made, Version: c.Version, Appliance: c.Appliance, Hosts: len(c.Buckets["hosts"]), Groups: len(c.Buckets["groups"]),
		Users: len(c.Buckets["users"]), Secrets: len(c.Secrets), Restart: true}
	if r.Groups > 0 {
		r.Warnings = append(r.Warnings, "All groups come back paused. Make sure that no other appliance protects the same machines, then resume them one by one.")
	}
	for _, name := range c.Missing {
		r.Warnings = append(r.Warnings, "The secret "+name+" could not be read when the backup was made: enter it again.")
	}
	return r
}

// prepare makes the new content of every bucket, so that nothing can fail later but the disk.
func (s *Support) prepare(c content) (pending, error) {
	var random [8]byte
	rand.Read(random[:])
	p := pending{ID: hex.EncodeToString(random[:]), Made: c.Made, Ordered: s.Clock().UTC(), Clear: s.Configuration.Forgotten,
		Replace: map[string]map[string]json.RawMessage{vault.Bucket: {}}}
	for bucket := range c.Buckets {
		if s.Configuration.kept(bucket) == nil {
			return p, newer(c.Version)
		}
	}
	for _, k := range s.Configuration.Kept { // a bucket that an older version did not know comes back empty
		values := map[string]json.RawMessage{}
		for key, value := range c.Buckets[k.Bucket] {
			if k.Restored != nil {
				var err error
				if value, err = k.Restored(value, c.Made); err != nil {
					return p, notABackup("an entry of %s makes no sense", k.Bucket)
				}
			}
			if key == "" || len(key) > maxKey || !json.Valid(value) {
				return p, notABackup("an entry of %s cannot be read", k.Bucket)
			}
			values[key] = value
		}
		p.Replace[k.Bucket] = values
	}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		secret := api.NewSecret(c.Secrets[name])
		if name == "" || len(name) > maxKey || secret.IsZero() {
			return p, notABackup("a secret has no name, or is none")
		}
		sealed, err := s.Vault.Seal(name, secret)
		if err != nil {
			return p, err
		}
		p.Replace[vault.Bucket][name] = sealed
	}
	return p, nil
}

func writePending(dir string, p pending) (err error) {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".restore-*") // mode 0600
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
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, pendingFile)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Database can change as a whole. *store.DB can.
type Database interface {
	// Exchange makes the whole change or nothing, and remembers its id with it.
	Exchange(id string, replace map[string]map[string]json.RawMessage, clear []string) error
	Exchanged() (id string, err error)
	CopyTo(path string) error
}

// ApplyRestore does a restore that was ordered, before anything else looks at the state. What was there is kept beside the
// database; the change itself is one transaction, so that a death at any moment leaves the old configuration or the new
// one. done is false when none was ordered.
func ApplyRestore(db Database, dataDir string) (done bool, err error) {
	return applyRestore(db, dataDir, func(string) {})
}

func applyRestore(db Database, dataDir string, step func(string)) (done bool, err error) {
	path := filepath.Join(dataDir, pendingFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the restore that was ordered: %w", err)
	}
	var p pending
	if err := json.Unmarshal(b, &p); err != nil || p.ID == "" {
		return false, api.Errorf(api.CodeInternal, "Remove it to go on with the configuration as it is, or order the restore again then.",
			"the restore in %s cannot be read", path)
	}
	last, err := db.Exchanged()
	if err != nil {
		return false, err
	}
	step("begin")
	if last != p.ID { // else we died right after it
		aside := filepath.Join(dataDir, "state.db.before-restore-"+p.Ordered.Format("20060102-150405"))
		if err := db.CopyTo(aside); err != nil {
			return false, fmt.Errorf("keep the state as it was: %w", err)
		}
		step("kept the old state")
		if err := db.Exchange(p.ID, p.Replace, p.Clear); err != nil {
			return false, fmt.Errorf("restore the configuration: %w", err)
		}
		step("restored")
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("end the restore: %w", err)
	}
	step("end")
	return true, syncDir(dataDir)
}
