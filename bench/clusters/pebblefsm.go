package clusters

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// onDisk is a state machine with its rows on the disk, set as our engine sets
// Pebble: no log of its own, because raft's can be replayed, and memtables of
// 16 MiB. It checks nothing and hashes nothing.
type onDisk struct{ db *pebble.DB }

var _ raft.BatchingFSM = onDisk{}

func openOnDisk(dir string) (onDisk, error) {
	db, err := pebble.Open(dir, &pebble.Options{DisableWAL: true, MemTableSize: 16 << 20, Logger: quiet{}})
	return onDisk{db}, err
}

// quiet drops what Pebble says; what is fatal to it is still fatal.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	pebble.DefaultLogger.Fatalf(format, args...)
}

func (d onDisk) Apply(l *raft.Log) any { return d.ApplyBatch([]*raft.Log{l})[0] }

func (d onDisk) ApplyBatch(all []*raft.Log) []any {
	out := make([]any, len(all))
	b := d.db.NewBatch()
	var err error
	for _, l := range all {
		if l.Type == raft.LogCommand && len(l.Data) >= 2 {
			n := 2 + int(binary.BigEndian.Uint16(l.Data))
			err = errors.Join(err, b.Set(l.Data[2:n], l.Data[n:], nil))
		}
	}
	if err = errors.Join(err, b.Commit(pebble.NoSync)); err != nil {
		for i := range out {
			out[i] = err
		}
	}
	return out
}

// onDiskCopy streams the rows as lengths and bytes.
type onDiskCopy struct{ s *pebble.Snapshot }

func (d onDisk) Snapshot() (raft.FSMSnapshot, error) { return onDiskCopy{d.db.NewSnapshot()}, nil }

func (c onDiskCopy) Persist(sink raft.SnapshotSink) error {
	if err := c.write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (c onDiskCopy) write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 256<<10)
	it, err := c.s.NewIter(nil)
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		for _, b := range [][]byte{it.Key(), it.Value()} {
			if _, err = out.Write(binary.AppendUvarint(nil, uint64(len(b)))); err == nil {
				_, err = out.Write(b)
			}
		}
	}
	return errors.Join(err, it.Close(), out.Flush())
}

func (c onDiskCopy) Release() { _ = c.s.Close() }

// Restore adds the rows: these clusters delete none.
func (d onDisk) Restore(in io.ReadCloser) error {
	defer in.Close()
	r := bufio.NewReaderSize(in, 256<<10)
	for {
		key, err := readBytes(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		value, err2 := readBytes(r)
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		if err := d.db.Set(key, value, pebble.NoSync); err != nil {
			return err
		}
	}
}

func readBytes(r *bufio.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}
