package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
)

// ErrBehind: another member needs more than this one's log holds. Raft does not ship state here: the member notices by
// itself and fetches it (Fetch).
var ErrBehind = errors.New("replication: the log does not reach back far enough for this member; it has to fetch the state")

// A mark is what raft calls a snapshot, without a copy of anything: the row store is durable up to index, and these
// were the members then. Raft begins behind the mark after a restart.
type mark struct {
	index, term   uint64
	configIndex   uint64
	configuration raft.Configuration
}

func (m mark) encode() []byte {
	b := append(make([]byte, 0, 512), markVersion)
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = binary.BigEndian.AppendUint64(b, m.term)
	b = binary.BigEndian.AppendUint64(b, m.configIndex)
	return append(b, raft.EncodeConfiguration(m.configuration)...)
}

func decodeMark(b []byte) (m mark, err error) {
	if len(b) < markHeader {
		return m, fmt.Errorf("%w: mark of %d bytes", errFormat, len(b))
	}
	if b[0] != markVersion {
		return m, fmt.Errorf("%w: mark version %d", errFormat, b[0])
	}
	m.index, m.term, m.configIndex = binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), binary.BigEndian.Uint64(b[17:])
	m.configuration, err = decodeConfiguration(b[markHeader:])
	return m, err
}

// decodeConfiguration turns raft's panic on foreign bytes into an error.
func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: configuration: %v", errFormat, p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

// markAt returns the mark for a store that has applied everything up to applied: the stored one, carried forward over
// the configurations that follow it in the log.
func markAt(log *wal.Log, applied uint64) (m mark, err error) {
	if raw, ok := log.Meta(markKey); ok {
		if m, err = decodeMark(raw); err != nil {
			return m, err
		}
	}
	switch {
	case m.index > applied:
		return m, fmt.Errorf("%w: everything up to %d was flushed once, but the rows end at %d", errFormat, m.index, applied)
	case m.index == applied:
		return m, nil
	}
	errDone := errors.New("done")
	err = log.Iterate(m.index+1, func(e wal.Entry) error {
		if e.Index > applied {
			return errDone
		}
		m.index, m.term = e.Index, e.Term
		if e.Type != typeEnvelope+wal.EntryType(raft.LogConfiguration) {
			return nil
		}
		var l raft.Log
		if err := decodeEntry(&e, &l); err != nil {
			return err
		}
		c, err := decodeConfiguration(l.Data)
		m.configuration, m.configIndex = c, e.Index
		return err
	})
	if err != nil && !errors.Is(err, errDone) {
		return m, fmt.Errorf("replication: look for the members in the log: %w", err)
	}
	if m.index != applied {
		return m, fmt.Errorf("%w: the log ends at %d, before the applied index %d", errFormat, m.index, applied)
	}
	return m, nil
}

// marks is raft's SnapshotStore. It keeps the newest mark in the log's meta values.
type marks struct {
	log   *wal.Log
	moved func(index uint64) // the mark is at index now

	mu      sync.Mutex
	current mark // index 0: none
}

// Create begins a mark; it counts from the sink's Close on, if the rows were flushed (flushed).
func (s *marks) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64,
	_ raft.Transport,
) (raft.SnapshotSink, error) {
	return &markSink{s: s, m: mark{index, term, configIndex, c}}, nil
}

// List returns the newest mark.
func (s *marks) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.index == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{s.current.meta()}, nil
}

// Open is asked for the content of the mark, to send it to a member that is too far behind. There is none; see based.
func (s *marks) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.index == 0 {
		return nil, nil, ErrBehind
	}
	return s.current.meta(), io.NopCloser(strings.NewReader("")), nil
}

func (m mark) meta() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("mark-%d-%d", m.term, m.index), Index: m.index, Term: m.term,
		Configuration: m.configuration, ConfigurationIndex: m.configIndex,
	}
}

type markSink struct {
	s       *marks
	m       mark
	flushed uint64 // set by the state machine: the durable applied index
	closed  bool
}

func (k *markSink) ID() string { return k.m.meta().ID }

// Write is called with state that another node sends.
func (k *markSink) Write([]byte) (int, error) { return 0, ErrBehind }

// Close stores the mark. Raft calls it twice.
func (k *markSink) Close() error {
	if k.closed {
		return nil
	}
	if k.flushed < k.m.index {
		return fmt.Errorf("replication: mark %d: the rows are flushed up to %d only", k.m.index, k.flushed)
	}
	k.closed = true
	if err := k.s.log.SetMeta(markKey, k.m.encode()); err != nil {
		return fmt.Errorf("replication: store mark %d: %w", k.m.index, err)
	}
	k.s.mu.Lock()
	k.s.current = k.m
	k.s.mu.Unlock()
	k.s.moved(k.m.index)
	return nil
}

// Cancel forgets the mark.
func (k *markSink) Cancel() error {
	k.closed = true
	return nil
}
