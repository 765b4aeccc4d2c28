package stores

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

type pebbleStore struct{ db *pebble.DB }

// quiet drops Pebble's notes about every flush.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	pebble.DefaultLogger.Fatalf(f, a...)
}

// OpenPebble opens Pebble with its WAL on. With LogOnly it never compacts and
// never stops writes because of it.
func OpenPebble(dir string, o Options) (Store, error) {
	opts := &pebble.Options{
		MemTableSize:       memTable,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             quiet{},
	}
	if o.LogOnly {
		opts.DisableAutomaticCompactions = true
		opts.L0StopWritesThreshold = 1 << 20
		opts.MemTableStopWritesThreshold = 4
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, err
	}
	return &pebbleStore{db}, nil
}

func (p *pebbleStore) Put(key, value []byte) error {
	b := p.db.NewBatch()
	if err := b.Set(key, value, nil); err != nil {
		return errors.Join(err, b.Close())
	}
	return errors.Join(b.Commit(pebble.Sync), b.Close())
}

func (p *pebbleStore) PutBatch(keys, values [][]byte) error {
	b := p.db.NewBatch()
	for i := range keys {
		if err := b.Set(keys[i], values[i], nil); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return errors.Join(b.Commit(pebble.Sync), b.Close())
}

func (p *pebbleStore) Scan(fn func(key, value []byte) error) error {
	it, err := p.db.NewIter(nil)
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var v []byte
		if v, err = it.ValueAndErr(); err == nil {
			err = fn(it.Key(), v)
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

func (p *pebbleStore) Close() error { return p.db.Close() }
