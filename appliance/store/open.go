package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"understudy/api"
)

// lockTimeout is long enough for a daemon that is being restarted to let go, and short enough to be told soon.
const lockTimeout = 2 * time.Second

// Open opens the state database, or makes it when there is no file. The whole file is checked first, without writing.
// An older one is migrated, after a copy of it was put beside it. The errors are those of this package, as *api.Error:
// ErrLocked, ErrNewer, ErrCorrupt; with all of them the file is as it was.
func Open(path string) (*DB, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create state database %s: %w", path, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("open state database: %w", err)
	}
	if err := inspect(path); err != nil {
		return nil, explain(path, err)
	}
	db, err := openChecked(path, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		return nil, explain(path, err)
	}
	if err := migrate(db, migrations); err != nil {
		_ = db.Close()
		return nil, explain(path, err)
	}
	return &DB{bolt: db}, nil
}

// create makes a complete database and only then gives it its name, so that an empty or half a file is always damage
// and never a first start that was interrupted. When another process was faster, its file stays.
func create(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".state-*") // mode 0600
	if err != nil {
		return err
	}
	temp := f.Name()
	defer os.Remove(temp)
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(temp, 0o600, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		return err
	}
	if err := errors.Join(migrate(db, migrations), db.Close()); err != nil {
		return err
	}
	if err := os.Link(temp, path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(path)
}

// inspect reads everything once and changes nothing. It fails with ErrCorrupt or ErrNewer, and makes the copy that must
// exist before an older file is migrated.
func inspect(path string) error {
	if info, err := os.Stat(path); err != nil {
		return err
	} else if info.Size() == 0 {
		return fmt.Errorf("%w: the file is empty", ErrCorrupt)
	}
	// The list of free pages is loaded here, under guard, because Check would load it in a goroutine of its own.
	db, err := openChecked(path, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: lockTimeout})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		if err := guard(func() error { return walk(tx) }); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		version, err := versionOf(tx)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		switch current := len(migrations); {
		case version > current:
			return fmt.Errorf("%w: it has format %d, this version knows %d", ErrNewer, version, current)
		case version < current:
			return backup(fmt.Sprintf("%s.before-format-%d", path, current), tx)
		case tx.Bucket([]byte(eventsBucket)) == nil:
			return fmt.Errorf("%w: it has no events", ErrCorrupt)
		}
		return nil
	})
}

// walk reads every key and value, then lets bbolt check pages and free list. The order matters: a page that is garbage
// faults here, where it can be caught, and not in the goroutine of Check.
func walk(tx *bbolt.Tx) error {
	err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		var last []byte
		return b.ForEach(func(k, v []byte) error {
			if bytes.Compare(last, k) >= 0 {
				return fmt.Errorf("keys of %s are out of order", name)
			}
			if !json.Valid(v) {
				return fmt.Errorf("value %q of %s cannot be read", k, name)
			}
			last = k
			return nil
		})
	})
	if err != nil {
		return err
	}
	var first error
	for err := range tx.Check() { // read to the end, or its goroutine stays
		if first == nil {
			first = err
		}
	}
	return first
}

// backup writes a consistent copy of the database beside it, durable before it has its name.
func backup(path string, tx *bbolt.Tx) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*")
	if err != nil {
		return fmt.Errorf("copy of the state database: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = tx.WriteTo(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		return fmt.Errorf("copy of the state database: %w", err)
	}
	return nil
}

// openChecked is bbolt.Open without its panics: a damaged file makes it read outside of the map.
func openChecked(path string, o *bbolt.Options) (db *bbolt.DB, err error) {
	var file *os.File
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := openShaped(name, flag, mode)
		file = f
		return f, err
	}
	var opened error
	err = guard(func() error {
		db, opened = bbolt.Open(path, 0o600, o)
		return nil
	})
	if err != nil {
		if file != nil {
			_ = file.Close() // and with it the lock
		}
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	var pathError *os.PathError
	switch {
	case opened == nil:
		return db, nil
	case errors.Is(opened, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.As(opened, &pathError), errors.Is(opened, os.ErrPermission):
		return nil, opened
	default:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, opened)
	}
}

// guard turns a panic of fn, and a fault in the memory that maps the file, into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	return fn()
}

// explain tells a person what to do.
func explain(path string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, ErrLocked):
		hint = "Another appliance runs on the same data directory. Stop it, or give this one a data directory of its own."
	case errors.Is(err, ErrNewer):
		hint = "Nothing was changed. Start the version that wrote it, or a later one, " +
			"or put back the copy that was made beside it before the upgrade."
	case errors.Is(err, ErrCorrupt):
		hint = "Nothing was changed. Put back a copy of the file from a backup. Without one, move it away and connect " +
			"the hosts again: replicas and their recovery points are kept on the hosts, not in this file."
	case errors.Is(err, os.ErrPermission):
		hint = "Start the appliance as the user that owns the data directory."
	}
	return api.Errorf(api.CodeInternal, hint, "state database %s: %w", path, err)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
