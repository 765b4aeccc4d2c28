package clusters

import (
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
)

// logs of hashicorp/raft keep its entries and its votes.
type logs interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

func walLogs(dir string) (logs, error) {
	dir = filepath.Join(dir, "wal")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return wal.Open(dir, wal.WithLogger(hclog.NewNullLogger()))
}

func boltLogs(dir string) (logs, error) {
	return raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db")})
}

// stock says what is not a default.
type stock struct {
	batches  bool // our MaxAppendEntries, RPCs in flight, BatchApplyCh
	timeouts bool // our timeouts
	disk     bool // rows in Pebble instead of in a map
}

// stockNode is hashicorp/raft with the smallest state machine there is, a map
// of rows in memory, or with Pebble.
type stockNode struct {
	raft *raft.Raft
	logs logs
	rows io.Closer // nil: in memory
}

func openStock(open func(dir string) (logs, error), s stock) func(Options) (Node, error) {
	return func(o Options) (Node, error) {
		if err := os.MkdirAll(o.Dir, 0o755); err != nil {
			return nil, err
		}
		l, err := open(o.Dir)
		if err != nil {
			return nil, err
		}
		n, err := openRaft(o, s, l)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		return n, nil
	}
}

func openRaft(o Options, s stock, l logs) (*stockNode, error) {
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = raft.ServerID(o.name()), hclog.NewNullLogger()
	tc := raft.NetworkTransportConfig{MaxPool: 3, Timeout: 10 * time.Second, Logger: c.Logger}
	if s.batches {
		c.MaxAppendEntries, c.BatchApplyCh, tc.MaxRPCsInFlight = 1024, true, 16
	}
	if s.timeouts {
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = fast.Heartbeat, fast.Election, fast.Lease
	}
	if o.Snapshots {
		c.TrailingLogs = 1
	}
	t, err := raft.NewTCPTransportWithConfig(o.Members[o.ID][0], nil, &tc)
	if err != nil {
		return nil, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(o.Dir, 2, c.Logger)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	var servers []raft.Server
	for i, m := range o.Members {
		servers = append(servers, raft.Server{ID: raft.ServerID(Options{ID: i}.name()), Address: raft.ServerAddress(m[0])})
	}
	known, err := raft.HasExistingState(l, l, snapshots)
	if err == nil && !known {
		err = raft.BootstrapCluster(c, l, l, snapshots, t, raft.Configuration{Servers: servers})
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	n := &stockNode{logs: l}
	var fsm raft.FSM = &rows{m: map[string][]byte{}}
	if s.disk {
		d, err := openOnDisk(filepath.Join(o.Dir, "rows"))
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		fsm, n.rows = d, d.db
	}
	if n.raft, err = raft.NewRaft(c, fsm, l, l, snapshots, t); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return n, nil
}

func (n *stockNode) Put(ctx context.Context, key, value []byte) error {
	f := n.raft.Apply(command(key, value), 10*time.Second)
	if ctx.Done() == nil {
		return f.Error()
	}
	got := make(chan error, 1)
	go func() { got <- f.Error() }()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *stockNode) State() State {
	_, id := n.raft.LeaderWithID()
	return State{Leader: n.raft.State() == raft.Leader, Known: id != "", Term: n.raft.CurrentTerm(), Applied: n.raft.AppliedIndex()}
}

func (n *stockNode) Compact() error { return n.raft.Snapshot().Error() }

func (n *stockNode) Close() error {
	err := errors.Join(n.raft.Shutdown().Error(), n.logs.Close())
	if n.rows != nil {
		err = errors.Join(err, n.rows.Close())
	}
	return err
}

// command is the length of the key, the key, the value.
func command(key, value []byte) []byte {
	b := make([]byte, 0, 2+len(key)+len(value))
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	return append(append(b, key...), value...)
}

// rows is the state machine.
type rows struct {
	mu sync.Mutex
	m  map[string][]byte
}

var _ raft.BatchingFSM = (*rows)(nil)

// Apply keeps the row; the command's memory is its own.
func (r *rows) Apply(l *raft.Log) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apply(l)
	return nil
}

// ApplyBatch spares raft and the lock.
func (r *rows) ApplyBatch(all []*raft.Log) []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range all {
		r.apply(l)
	}
	return make([]any, len(all))
}

func (r *rows) apply(l *raft.Log) {
	if l.Type == raft.LogCommand && len(l.Data) >= 2 {
		n := 2 + int(binary.BigEndian.Uint16(l.Data))
		r.m[string(l.Data[2:n])] = l.Data[n:]
	}
}

type rowsCopy map[string][]byte

func (r *rows) Snapshot() (raft.FSMSnapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(rowsCopy, len(r.m))
	for k, v := range r.m {
		c[k] = v
	}
	return c, nil
}

func (c rowsCopy) Persist(sink raft.SnapshotSink) error {
	if err := gob.NewEncoder(sink).Encode(map[string][]byte(c)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (rowsCopy) Release() {}

func (r *rows) Restore(in io.ReadCloser) error {
	defer in.Close()
	m := map[string][]byte{}
	if err := gob.NewDecoder(in).Decode(&m); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m = m
	return nil
}
