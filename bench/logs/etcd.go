package logs

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// etcdWAL drives etcd's log with one Save per group. The hard state is left out:
// etcd writes one when the commit index moved, so this is a little less work
// than etcd gives it.
type etcdWAL struct {
	log    *wal.WAL
	last   uint64
	ents   []raftpb.Entry
	stored []raftpb.Entry // what ReadAll found, until Replay hands it out
}

func openEtcd(dir string, o Options) (Log, error) {
	if o.SegmentSize > 0 {
		wal.SegmentSizeBytes = int64(o.SegmentSize) // its only knob; one cell per process
	}
	lg := zap.NewNop()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if !wal.Exist(dir) {
		// Create renames a temporary directory to dir, which must not exist yet.
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err := wal.Create(lg, dir, []byte("bench"))
		if err != nil {
			return nil, err
		}
		return newGrouped(&etcdWAL{log: l}), nil
	}
	l, ents, err := reopenEtcd(lg, dir)
	if err != nil {
		return nil, err
	}
	e := &etcdWAL{log: l, stored: ents}
	if len(ents) > 0 {
		e.last = ents[len(ents)-1].Index
	}
	return newGrouped(e), nil
}

// reopenEtcd does what etcd's server does at start: read everything, and when the
// last record is cut short, repair once and read again.
func reopenEtcd(lg *zap.Logger, dir string) (*wal.WAL, []raftpb.Entry, error) {
	for repaired := false; ; repaired = true {
		l, err := wal.Open(lg, dir, walpb.Snapshot{})
		if err != nil {
			return nil, nil, err
		}
		_, _, ents, err := l.ReadAll()
		if err == nil {
			return l, ents, nil
		}
		_ = l.Close() // the read error is the one that matters
		if repaired || !errors.Is(err, io.ErrUnexpectedEOF) || !wal.Repair(lg, dir) {
			return nil, nil, err
		}
	}
}

func (e *etcdWAL) AppendBatch(data [][]byte) error {
	e.ents = e.ents[:0]
	for i, d := range data {
		e.ents = append(e.ents, raftpb.Entry{Index: e.last + uint64(i) + 1, Term: 1, Data: d})
	}
	if err := e.log.Save(raftpb.HardState{}, e.ents); err != nil {
		return err
	}
	e.last += uint64(len(data))
	return nil
}

func (e *etcdWAL) Replay(fn func(data []byte) error) error {
	for i := range e.stored {
		if err := fn(e.stored[i].Data); err != nil {
			return err
		}
	}
	return nil
}

func (e *etcdWAL) Close() error { return e.log.Close() }
