package stores

import (
	"context"

	"github.com/erlmcp/erlmcp/engine"
)

const table = "bench"

// ours is the product's engine: every Put is a transaction with a read set, a
// conflict check at apply, a write set in the log, the state hash and Pebble.
type ours struct{ store *engine.Store }

func openOurs(dir string, _ Options) (Store, error) {
	s, err := engine.Open(dir, engine.Options{MemTableSize: memTable})
	if err != nil {
		return nil, err
	}
	return &ours{s}, nil
}

func (o *ours) Put(key, value []byte) error {
	_, err := o.store.Update(context.Background(), func(tx *engine.Tx) error {
		return tx.Put(table, key, value)
	})
	return err
}

func (o *ours) PutBatch(keys, values [][]byte) error {
	_, err := o.store.Update(context.Background(), func(tx *engine.Tx) error {
		for i := range keys {
			if err := tx.Put(table, keys[i], values[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func (o *ours) Scan(fn func(key, value []byte) error) error {
	return o.store.View(context.Background(), func(tx *engine.Tx) error {
		var failed error
		err := tx.Scan(table, engine.Range{}, func(key, value []byte) bool {
			failed = fn(key, value)
			return failed == nil
		})
		if failed != nil {
			return failed
		}
		return err
	})
}

func (o *ours) Close() error { return o.store.Close() }
