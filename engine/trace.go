package engine

import (
	"hash/maphash"
)

// trace is what replacing a row takes to know of its newest version.
type trace struct {
	present  bool
	mod      uint64 // of the newest write or removal
	deadline int64
	hash     [32]byte // what it adds to the state hash
}

// traces remember the rows that were written last, so that writing them again reads nothing from Pebble: finding the old
// version of a row costs more than everything else that applying does. What is remembered is what the store would answer, so
// it changes no decision and no hash. The apply loop owns it.
//
// It grows with the rows up to its limit. Then the place of a row that was not written again since the hand came by last is taken, which
// is one of those written longest ago. Nothing in it is a pointer, so garbage collection does not look into it.
type traces struct {
	seed  maphash.Seed
	slots []traceSlot
	at    map[uint64]uint32 // hash of a row's Pebble key -> its slot
	hand  int               // next slot to be looked at for a place
	limit int               // of len(slots); 0: nothing is remembered
	// forgotten: a row that is not remembered was not written after this index.
	forgotten uint64
}

type traceSlot struct {
	trace
	again bool  // written again since the hand came by
	n     uint8 // bytes of key
	key   [traceKeyBytes]byte
}

const traceKeyBytes = 70 // a slot is 128 bytes; rows with longer keys are not remembered

func newTraces(rows int) traces {
	return traces{seed: maphash.MakeSeed(), at: map[uint64]uint32{}, limit: max(rows, 0)}
}

// get returns the trace of the row with this Pebble key, if it is remembered.
func (t *traces) get(rowKey []byte) (trace, bool) {
	if i, ok := t.at[maphash.Bytes(t.seed, rowKey)]; ok && t.slots[i].is(rowKey) {
		return t.slots[i].trace, true
	}
	return trace{}, false
}

// put remembers a row that was just written or removed.
func (t *traces) put(rowKey []byte, row trace) {
	if t.limit == 0 || len(rowKey) > traceKeyBytes {
		t.forgotten = max(t.forgotten, row.mod)
		return
	}
	hash := maphash.Bytes(t.seed, rowKey)
	i, ok := t.at[hash]
	switch {
	case ok && t.slots[i].is(rowKey):
		t.slots[i].trace, t.slots[i].again = row, true
		return
	case ok: // two rows with one hash
		t.forgotten = max(t.forgotten, t.slots[i].mod)
	case len(t.slots) < t.limit:
		i = uint32(len(t.slots))
		t.slots = append(t.slots, traceSlot{})
	default:
		i = t.free()
	}
	s := &t.slots[i]
	s.trace, s.again, s.n = row, false, uint8(copy(s.key[:], rowKey))
	t.at[hash] = i
}

// free forgets a row and returns its slot.
func (t *traces) free() uint32 {
	for {
		i := t.hand
		t.hand = (t.hand + 1) % len(t.slots)
		s := &t.slots[i]
		if s.again {
			s.again = false
			continue
		}
		t.forgotten = max(t.forgotten, s.mod)
		delete(t.at, maphash.Bytes(t.seed, s.key[:s.n]))
		return uint32(i)
	}
}

func (s *traceSlot) is(rowKey []byte) bool { return string(s.key[:s.n]) == string(rowKey) }
