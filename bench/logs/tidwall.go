package logs

import (
	"github.com/tidwall/wal"
)

// tidwall drives tidwall/wal with one WriteBatch per group. NoCopy spares it a
// copy per read. It stores no checksum. Its default segment is 20 MB.
type tidwall struct {
	log   *wal.Log
	last  uint64
	batch wal.Batch
}

func openTidwall(dir string, o Options) (Log, error) {
	opts := *wal.DefaultOptions
	opts.NoCopy = true
	if o.SegmentSize > 0 {
		opts.SegmentSize = o.SegmentSize
	}
	l, err := wal.Open(dir, &opts)
	if err != nil {
		return nil, err
	}
	last, err := l.LastIndex()
	if err != nil {
		return nil, err
	}
	return newGrouped(&tidwall{log: l, last: last}), nil
}

func (t *tidwall) AppendBatch(data [][]byte) error {
	t.batch.Clear()
	for i, d := range data {
		t.batch.Write(t.last+uint64(i)+1, d)
	}
	if err := t.log.WriteBatch(&t.batch); err != nil {
		return err
	}
	t.last += uint64(len(data))
	return nil
}

func (t *tidwall) Replay(fn func(data []byte) error) error {
	first, err := t.log.FirstIndex()
	if err != nil {
		return err
	}
	for i := first; i != 0 && i <= t.last; i++ {
		d, err := t.log.Read(i)
		if err != nil {
			return err
		}
		if err := fn(d); err != nil {
			return err
		}
	}
	return nil
}

func (t *tidwall) Close() error { return t.log.Close() }
