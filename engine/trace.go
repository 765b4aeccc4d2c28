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
// A table of sets with a few places each; in a full set the row that was written longest ago makes room. It begins small,
// doubles when a set is full and a quarter of all places too, and holds no pointers, so that garbage collection does not look into it.
type traces struct {
	seed  maphash.Seed
	slots []traceSlot // a power of two, nil: none yet
	used  int
	limit int // of len(slots); 0: nothing is remembered
	// forgotten: a row that is not remembered was not written after this index.
	forgotten uint64
}

type traceSlot struct {
	trace
	n   uint8 // bytes of key, 0: free
	key [traceKeyBytes]byte
}

const (
	traceWays     = 4
	traceKeyBytes = 71 // a slot is 128 bytes; rows with longer keys are not remembered
	firstTraces   = 1 << 10
	fewestTraces  = 4 * traceWays
)

func newTraces(rows int) traces {
	t := traces{seed: maphash.MakeSeed()}
	for n := fewestTraces; n <= rows; n *= 2 {
		t.limit = n
	}
	return t
}

// get returns the trace of the row with this Pebble key, if it is remembered.
func (t *traces) get(rowKey []byte) (trace, bool) {
	if len(t.slots) == 0 || len(rowKey) > traceKeyBytes {
		return trace{}, false
	}
	set := t.set(rowKey)
	for i := range set {
		if s := &set[i]; string(s.key[:s.n]) == string(rowKey) {
			return s.trace, true
		}
	}
	return trace{}, false
}

// put remembers a row that was just written or removed.
func (t *traces) put(rowKey []byte, row trace) {
	if t.limit == 0 || len(rowKey) > traceKeyBytes {
		t.forgotten = max(t.forgotten, row.mod)
		return
	}
	if len(t.slots) == 0 {
		t.slots = make([]traceSlot, min(firstTraces, t.limit))
	}
	for {
		s := t.place(rowKey)
		other := s.n != 0 && string(s.key[:s.n]) != string(rowKey)
		if other && len(t.slots) < t.limit && t.used >= len(t.slots)/4 {
			t.grow()
			continue
		}
		switch {
		case other:
			t.forgotten = max(t.forgotten, s.mod)
		case s.n == 0:
			t.used++
		}
		s.trace, s.n = row, uint8(copy(s.key[:], rowKey))
		return
	}
}

func (t *traces) set(rowKey []byte) []traceSlot {
	at := int(maphash.Bytes(t.seed, rowKey)) & (len(t.slots) - 1) &^ (traceWays - 1)
	return t.slots[at : at+traceWays]
}

// place is the row's own slot, or a free one, or the one whose row was written longest ago.
func (t *traces) place(rowKey []byte) *traceSlot {
	set := t.set(rowKey)
	best := &set[0]
	for i := range set {
		s := &set[i]
		switch {
		case s.n != 0 && string(s.key[:s.n]) == string(rowKey):
			return s
		case best.n != 0 && (s.n == 0 || s.mod < best.mod):
			best = s
		}
	}
	return best
}

// grow doubles the table. The rows of one set spread over two, so each of them finds a place.
func (t *traces) grow() {
	old := t.slots
	t.slots = make([]traceSlot, 2*len(old))
	for i := range old {
		if s := &old[i]; s.n != 0 {
			*t.place(s.key[:s.n]) = *s
		}
	}
}
