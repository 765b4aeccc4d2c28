package fuzz

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/erlmcp/erlmcp/wal"
)

// digest identifies a state of the log: what a reader can see of it.
type digest [32]byte

// never is the acknowledgement time of a step that was not acknowledged.
const never = math.MaxInt

// stepKind says what a step does to the log.
type stepKind uint8

const (
	stepAppend stepKind = iota
	stepFront           // TruncateFront(Index)
	stepBack            // TruncateBack(Index)
	stepMeta            // SetMeta(Key, Value)
)

// step is one call on the log and when it happened, in disk operations.
type step struct {
	Kind    stepKind
	Entries []wal.Entry // append; with their final indexes
	Index   uint64
	Key     string
	Value   []byte // nil deletes
	Commit  uint64 // commit index given to the log just before the call
	Begun   int    // operations before the call
	Acked   int    // operations when success was reported, or never
}

func (s *step) String() string {
	switch s.Kind {
	case stepAppend:
		return fmt.Sprintf("append %d..%d", s.Entries[0].Index, s.Entries[len(s.Entries)-1].Index)
	case stepFront:
		return fmt.Sprintf("truncate front %d", s.Index)
	case stepBack:
		return fmt.Sprintf("truncate back %d", s.Index)
	default:
		return fmt.Sprintf("set meta %s (%d bytes)", s.Key, len(s.Value))
	}
}

// logModel is what a correct log holds after some steps.
type logModel struct {
	First, Next uint64 // entries are [First, Next)
	Entries     map[uint64]digest
	Meta        map[string][]byte
}

func newLogModel() *logModel {
	return &logModel{First: 1, Next: 1, Entries: map[uint64]digest{}, Meta: map[string][]byte{}}
}

func (m *logModel) clone() *logModel {
	return &logModel{First: m.First, Next: m.Next, Entries: maps.Clone(m.Entries), Meta: maps.Clone(m.Meta)}
}

// apply performs a step that succeeded.
func (m *logModel) apply(s *step) {
	switch s.Kind {
	case stepAppend:
		if m.First == m.Next {
			m.First = s.Entries[0].Index
		}
		for _, e := range s.Entries {
			m.Entries[e.Index] = entryDigest(e)
		}
		m.Next = s.Entries[len(s.Entries)-1].Index + 1
	case stepFront:
		for m.First < s.Index && m.First < m.Next {
			delete(m.Entries, m.First)
			m.First++
		}
	case stepBack:
		for m.Next > s.Index && m.Next > m.First {
			m.Next--
			delete(m.Entries, m.Next)
		}
	case stepMeta:
		if s.Value == nil {
			delete(m.Meta, s.Key)
		} else {
			m.Meta[s.Key] = s.Value
		}
	}
}

// digest covers everything a reader can see.
func (m *logModel) digest() digest {
	h := sha256.New()
	if m.First != m.Next {
		num(h.Write, m.First, m.Next)
	}
	for i := m.First; i < m.Next; i++ {
		e := m.Entries[i]
		h.Write(e[:])
	}
	for _, k := range slices.Sorted(maps.Keys(m.Meta)) {
		num(h.Write, uint64(len(k)), uint64(len(m.Meta[k])))
		h.Write([]byte(k))
		h.Write(m.Meta[k])
	}
	return digest(h.Sum(nil))
}

func (m *logModel) String() string {
	return fmt.Sprintf("entries [%d,%d), meta %q", m.First, m.Next, slices.Sorted(maps.Keys(m.Meta)))
}

// diff says where two models part, in words.
func (m *logModel) diff(o *logModel) string {
	s := fmt.Sprintf("want %s, got %s", m, o)
	for i := max(m.First, o.First); i < min(m.Next, o.Next); i++ {
		if m.Entries[i] != o.Entries[i] {
			return s + fmt.Sprintf("; entry %d differs", i)
		}
	}
	for k, v := range m.Meta {
		if string(o.Meta[k]) != string(v) {
			return s + fmt.Sprintf("; meta %s differs", k)
		}
	}
	return s
}

// entryDigest identifies an entry without keeping its bytes.
func entryDigest(e wal.Entry) digest {
	h := sha256.New()
	num(h.Write, e.Index, e.Term, uint64(e.Type))
	h.Write(e.Data)
	return digest(h.Sum(nil))
}

func num(write func([]byte) (int, error), vs ...uint64) {
	var b [8]byte
	for _, v := range vs {
		binary.LittleEndian.PutUint64(b[:], v)
		write(b[:]) //nolint:errcheck // a hash never fails
	}
}

// readLog reads everything visible of an open log into a model. metaKeys are
// the keys to ask for.
func readLog(l *wal.Log, metaKeys []string) (*logModel, error) {
	m := newLogModel()
	m.First, m.Next = l.FirstIndex(), l.LastIndex()+1
	if l.LastIndex() == 0 {
		m.First, m.Next = 1, 1
	}
	want := m.First
	err := l.Iterate(m.First, func(e wal.Entry) error {
		if e.Index != want {
			return fmt.Errorf("iterate gave index %d where %d was due", e.Index, want)
		}
		want++
		m.Entries[e.Index] = entryDigest(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if want != m.Next {
		return nil, fmt.Errorf("iterate ended before index %d, the log says it holds [%d,%d)", want, m.First, m.Next)
	}
	for _, k := range metaKeys {
		if v, ok := l.Meta(k); ok {
			m.Meta[k] = v
		}
	}
	return m, nil
}
