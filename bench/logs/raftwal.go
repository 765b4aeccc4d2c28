package logs

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// raftWAL drives hashicorp/raft-wal as raft does: one StoreLogs call per group.
type raftWAL struct {
	log  *wal.WAL
	last uint64
	ents []raft.Log
	ptrs []*raft.Log
}

func openRaftWAL(dir string, o Options) (Log, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// The default segment size is 64 MiB, the same as ours.
	open := func() (*wal.WAL, error) {
		quiet := wal.WithLogger(hclog.NewNullLogger())
		if o.SegmentSize > 0 {
			return wal.Open(dir, quiet, wal.WithSegmentSize(o.SegmentSize))
		}
		return wal.Open(dir, quiet)
	}
	l, err := open()
	if err != nil {
		return nil, err
	}
	last, err := l.LastIndex()
	if err != nil {
		return nil, err
	}
	return newGrouped(&raftWAL{log: l, last: last}), nil
}

func (r *raftWAL) AppendBatch(data [][]byte) error {
	r.ents, r.ptrs = r.ents[:0], r.ptrs[:0]
	for i, d := range data {
		r.ents = append(r.ents, raft.Log{Index: r.last + uint64(i) + 1, Term: 1, Type: raft.LogCommand, Data: d})
	}
	for i := range r.ents {
		r.ptrs = append(r.ptrs, &r.ents[i])
	}
	if err := r.log.StoreLogs(r.ptrs); err != nil {
		return err
	}
	r.last += uint64(len(data))
	return nil
}

func (r *raftWAL) Replay(fn func(data []byte) error) error {
	first, err := r.log.FirstIndex()
	if err != nil {
		return err
	}
	var e raft.Log
	for i := first; i != 0 && i <= r.last; i++ {
		if err := r.log.GetLog(i, &e); err != nil {
			return err
		}
		if err := fn(e.Data); err != nil {
			return err
		}
	}
	return nil
}

func (r *raftWAL) Close() error { return r.log.Close() }
