package stores

import (
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

type badgerStore struct{ db *badger.DB }

// OpenBadger opens badger with SyncWrites. It turns compression off: the values are random, so it could only lose.
func OpenBadger(dir string, _ Options) (Store, error) {
	o := badger.DefaultOptions(dir).WithSyncWrites(true).WithLogger(nil).
		WithCompression(options.None).WithMemTableSize(memTable)
	db, err := badger.Open(o)
	if err != nil {
		return nil, err
	}
	return &badgerStore{db}, nil
}

func (b *badgerStore) Put(key, value []byte) error {
	return b.db.Update(func(tx *badger.Txn) error { return tx.Set(key, value) })
}

func (b *badgerStore) PutBatch(keys, values [][]byte) error {
	return b.db.Update(func(tx *badger.Txn) error {
		for i := range keys {
			if err := tx.Set(keys[i], values[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *badgerStore) Scan(fn func(key, value []byte) error) error {
	return b.db.View(func(tx *badger.Txn) error {
		it := tx.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().Key()
			if err := it.Item().Value(func(v []byte) error { return fn(key, v) }); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *badgerStore) Close() error { return b.db.Close() }
