package logs

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/erlmcp/erlmcp/bench/stores"
)

// storeLog uses a store as a log: the key is the index, so writes arrive in
// ascending order, the cheapest there is.
type storeLog struct {
	stores.Store
	last   atomic.Uint64
	keyBuf [][]byte
}

func openPebble(dir string, _ Options) (Log, error) {
	return asLog(stores.OpenPebble(dir, stores.Options{LogOnly: true}))
}

func openBolt(dir string, _ Options) (Log, error) {
	return asLog(stores.OpenBolt(dir, stores.Options{LogOnly: true}))
}

func openBadger(dir string, _ Options) (Log, error) {
	return asLog(stores.OpenBadger(dir, stores.Options{LogOnly: true}))
}

func asLog(s stores.Store, err error) (Log, error) {
	if err != nil {
		return nil, err
	}
	return &storeLog{Store: s}, nil
}

func (s *storeLog) key() []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), s.last.Add(1))
}

func (s *storeLog) Append(data []byte) error { return s.Put(s.key(), data) }

func (s *storeLog) AppendBatch(data [][]byte) error {
	s.keyBuf = s.keyBuf[:0]
	for range data {
		s.keyBuf = append(s.keyBuf, s.key())
	}
	return s.PutBatch(s.keyBuf, data)
}

func (s *storeLog) Replay(fn func(data []byte) error) error {
	return s.Scan(func(_, value []byte) error { return fn(value) })
}
