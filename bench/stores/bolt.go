package stores

import (
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

var boltBucket = []byte("b")

type boltStore struct {
	db    *bolt.DB
	batch bool
}

// OpenBolt opens bbolt with one transaction and one sync per Put.
func OpenBolt(dir string, _ Options) (Store, error)      { return newBolt(dir, false) }
func openBoltBatch(dir string, _ Options) (Store, error) { return newBolt(dir, true) }

// newBolt opens bbolt as etcd does: the free list is a map and is not synced.
func newBolt(dir string, batch bool) (Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	opts := *bolt.DefaultOptions
	opts.FreelistType = bolt.FreelistMapType
	opts.NoFreelistSync = true
	db, err := bolt.Open(filepath.Join(dir, "bolt.db"), 0o644, &opts)
	if err != nil {
		return nil, err
	}
	s := &boltStore{db: db, batch: batch}
	return s, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(boltBucket)
		return err
	})
}

func (b *boltStore) Put(key, value []byte) error {
	put := func(tx *bolt.Tx) error { return tx.Bucket(boltBucket).Put(key, value) }
	if b.batch {
		return b.db.Batch(put)
	}
	return b.db.Update(put)
}

func (b *boltStore) PutBatch(keys, values [][]byte) error {
	return b.db.Update(func(tx *bolt.Tx) error {
		for i := range keys {
			if err := tx.Bucket(boltBucket).Put(keys[i], values[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *boltStore) Scan(fn func(key, value []byte) error) error {
	return b.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(boltBucket).ForEach(fn)
	})
}

func (b *boltStore) Close() error { return b.db.Close() }
