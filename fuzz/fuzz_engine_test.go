package fuzz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/cockroachdb/pebble/v2"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

// FuzzWriteSet: no bytes make the decoder panic or allocate without bound, and
// what it accepts it writes again byte by byte.
func FuzzWriteSet(f *testing.F) {
	w := engine.WriteSet{
		Time: 1_700_000_000_000, Actor: "a", Label: "l", IdempotencyKey: "k", IdempotencyDeadline: 1, RequestHash: []byte("h"), Outcome: []byte("o"),
		Ops: []engine.Op{{Table: "t", Key: []byte("k"), Value: []byte("v")}},
	}
	f.Add(w.Encode(nil))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := writeSet(data); err != nil {
			t.Fatal(err)
		}
	})
}

func writeSet(data []byte) error {
	var ws *engine.WriteSet
	err := bounded(uint64(1<<16+64*len(data)), func() (err error) {
		ws, err = engine.DecodeWriteSet(data)
		return err
	})
	if err != nil {
		if !errors.Is(err, engine.ErrMalformed) && !errors.Is(err, engine.ErrVersion) {
			return err
		}
		return nil
	}
	again := ws.Encode(nil)
	if !bytes.Equal(again, data) {
		return fmt.Errorf("decoded and encoded again: %x, was %x", again, data)
	}
	return nil
}

// smallStore is a closed store with some rows; fuzz executions work on clones.
var smallStore = sync.OnceValues(func() (*simdisk.Disk, error) {
	d, err := newDisk(1)
	if err != nil {
		return nil, err
	}
	r := newDBRecorder(d, smallConfig)
	r.open()
	for range 6 {
		r.update(200)
	}
	r.checkpoint()
	r.update(100)
	if r.err == nil {
		r.close()
	}
	return d.Clone(), r.err
})

var smallConfig = dbConfig{Name: "small", Seed: 1}

// FuzzStoreRows plants a row of any bytes below the engine, as a bug of ours or
// another program could. The engine must refuse or go on; never panic or hang.
func FuzzStoreRows(f *testing.F) {
	f.Add([]byte("dalpha\x00key-01"), []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00value"))
	f.Add([]byte("d"), []byte{})
	f.Add([]byte("m"), []byte("\xff"))
	f.Add([]byte("dalpha\x00key-01"), []byte("\x00"))
	f.Add([]byte("zzz"), []byte("zzz"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if err := storeRow(key, value); err != nil {
			t.Fatal(err)
		}
	})
}

func storeRow(key, value []byte) error {
	if len(key) == 0 {
		return nil // Pebble itself cannot write a block of only an empty key
	}
	base, err := smallStore()
	if err != nil {
		return err
	}
	d := base.Clone()
	db, err := pebble.Open(dbDir+"/store", &pebble.Options{FS: d, Logger: pebbleQuiet{}, FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		return err
	}
	if err := errors.Join(db.Set(key, value, pebble.Sync), db.Close()); err != nil {
		return err
	}
	s, err := engine.Open(dbDir, smallConfig.options(d, 0))
	if err != nil {
		if !errors.Is(err, engine.ErrCorrupt) && !errors.Is(err, engine.ErrVersion) {
			return fmt.Errorf("refused without a typed error: %w", err)
		}
		return nil
	}
	// The planted row may show or not, and Verify may complain; nothing may
	// panic or hang.
	_, _ = readRows(s)
	_, _ = s.Verify(context.Background())
	_ = s.Close()
	return nil
}

type pebbleQuiet struct{}

func (pebbleQuiet) Infof(string, ...any)         {}
func (pebbleQuiet) Errorf(string, ...any)        {}
func (pebbleQuiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// Transactions of several clients, interleaved step by step as the fuzz bytes
// say. What they saw and the order in which they committed must be explained by
// a serial execution (checked exactly, in log order) that respects real time
// (checked with porcupine).

// move is one step of a transaction.
type move struct {
	kind byte // g get, p put, d delete, s scan
	key  string
	val  string
}

// seen is what a step observed: the value, or the scan's rows.
type seen struct {
	move  move
	value string
}

// attempt is one transaction as its client saw it.
type attempt struct {
	client    int
	saw       []seen
	index     uint64 // 0: read only
	call, ret int64
	err       error
}

const absent = "\x00absent"

// perform does one step against the engine.
func perform(etx *engine.Tx, m move) (string, error) {
	key := []byte(m.key)
	switch m.kind {
	case 'p':
		return m.val, etx.Put("alpha", key, []byte(m.val))
	case 'd':
		return absent, etx.Delete("alpha", key)
	case 's':
		var sb strings.Builder
		err := etx.Scan("alpha", engine.Range{Lo: key}, func(k, v []byte) bool {
			fmt.Fprintf(&sb, "%s=%s;", k, v)
			return true
		})
		return sb.String(), err
	default:
		v, err := etx.Get("alpha", key)
		if errors.Is(err, engine.ErrNotFound) {
			return absent, nil
		}
		return string(v), err
	}
}

// expect is the same step against the model; writes change the model.
func (m move) expect(state map[string]string) string {
	switch m.kind {
	case 'p':
		state[m.key] = m.val
		return m.val
	case 'd':
		delete(state, m.key)
		return absent
	case 's':
		var sb strings.Builder
		for _, k := range slices.Sorted(maps.Keys(state)) {
			if k >= m.key {
				fmt.Fprintf(&sb, "%s=%s;", k, state[k])
			}
		}
		return sb.String()
	default:
		if v, ok := state[m.key]; ok {
			return v
		}
		return absent
	}
}

// explains replays an attempt on a state and reports whether it would have seen
// the same.
func (a *attempt) explains(state map[string]string) (map[string]string, bool) {
	state = maps.Clone(state)
	for _, s := range a.saw {
		if s.move.expect(state) != s.value {
			return nil, false
		}
	}
	return state, true
}

// stage lets one client step at a time.
type stage struct {
	mu    sync.Mutex
	clock int64
}

func (st *stage) tick() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.clock++
	return st.clock
}

// actor is one client; it moves when it gets a token and answers when done.
type actor struct {
	id    int
	moves []move // of the present transaction
	go_   chan bool
	done  chan struct{}
}

// FuzzEngineTx checks transactions against a serial model.
func FuzzEngineTx(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x10\x11\x12\x20\x21\x22\x00\x01\x02\x00\x01\x02\x00\x01\x02"))
	f.Add([]byte("gpgpgpgpdsdsdsds0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Add([]byte("\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5\xf4\xf3\xf2\xf1\xf0\xef\xee\xed\xec\xeb\xea"))
	f.Add(bytes.Repeat([]byte{7, 77, 177, 33}, 24))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 160 {
			data = data[:160]
		}
		if err := interleave(data); err != nil {
			t.Fatal(err)
		}
	})
}

// interleave runs three clients under the schedule in data.
func interleave(data []byte) error {
	base, err := smallStore()
	if err != nil {
		return err
	}
	s, err := engine.Open(dbDir, smallConfig.options(base.Clone(), 0))
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // only the history matters
	start := map[string]string{}
	if err := s.View(context.Background(), func(etx *engine.Tx) error {
		clear(start)
		return etx.Scan("alpha", engine.Range{}, func(k, v []byte) bool {
			start[string(k)] = string(v)
			return true
		})
	}); err != nil {
		return err
	}
	in := &input{data}
	st := &stage{}
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		attempts []*attempt
		actors   []*actor
	)
	for id := range 3 {
		a := &actor{id: id, go_: make(chan bool), done: make(chan struct{})}
		actors = append(actors, a)
		wg.Go(func() {
			for tx := 0; <-a.go_; tx++ {
				at := a.transact(s, st, fmt.Sprintf("c%d-t%d", id, tx))
				mu.Lock()
				attempts = append(attempts, at)
				mu.Unlock()
				a.done <- struct{}{}
			}
		})
	}
	schedule(in, actors)
	for _, a := range actors {
		close(a.go_)
	}
	wg.Wait()
	final := map[string]string{}
	err = s.View(context.Background(), func(etx *engine.Tx) error {
		clear(final)
		return etx.Scan("alpha", engine.Range{}, func(k, v []byte) bool {
			final[string(k)] = string(v)
			return true
		})
	})
	if err != nil {
		return err
	}
	return judgeHistory(start, final, attempts)
}

// schedule hands out tokens until the bytes are used up, then lets everybody
// finish.
func schedule(in *input, actors []*actor) {
	busy := make([]bool, len(actors))
	step := func(i int, m *move) {
		a := actors[i]
		if !busy[i] {
			busy[i] = true
			a.go_ <- true // begins a transaction: Update calls the function
			<-a.done
			return
		}
		if m != nil {
			a.moves = append(a.moves, *m)
			a.go_ <- true
			<-a.done
			return
		}
		busy[i] = false
		a.go_ <- false // commit
		<-a.done
	}
	for n := 0; !in.empty(); n++ {
		b := in.byte()
		i := int(b) % len(actors)
		kind := "ggppdsgpc"[int(b>>2)%9]
		if kind == 'c' && busy[i] {
			step(i, nil)
			continue
		}
		m := move{kind: kind, key: fmt.Sprintf("key-%02d", b>>5), val: fmt.Sprintf("v%d", n)}
		if kind == 'c' {
			m.kind = 'g'
		}
		step(i, &m)
	}
	for i := range actors {
		if busy[i] {
			step(i, nil)
		}
	}
}

// transact runs one transaction whose steps come one token at a time.
func (a *actor) transact(s *engine.Store, st *stage, name string) *attempt {
	at := &attempt{client: a.id, call: st.tick()}
	began := false
	res, err := s.Update(context.Background(), func(etx *engine.Tx) error {
		at.saw = nil
		if began {
			// A second run replays the same steps without tokens.
			for _, m := range a.moves {
				if err := a.record(etx, at, m); err != nil {
					return err
				}
			}
			return nil
		}
		began = true
		a.moves = nil
		a.done <- struct{}{}
		for <-a.go_ {
			if err := a.record(etx, at, a.moves[len(a.moves)-1]); err != nil {
				return err
			}
			a.done <- struct{}{}
		}
		return nil
	}, engine.WithLabel(name), engine.WithMaxTries(1))
	at.ret, at.index, at.err = st.tick(), res.Index, err
	return at
}

func (a *actor) record(etx *engine.Tx, at *attempt, m move) error {
	v, err := perform(etx, m)
	at.saw = append(at.saw, seen{m, v})
	return err
}

// judgeHistory checks the attempts. Those with an index must replay exactly in
// that order; those that only read must fit some state between; all together
// must be linearizable.
func judgeHistory(start, final map[string]string, attempts []*attempt) error {
	var done []*attempt
	for _, a := range attempts {
		switch {
		case errors.Is(a.err, engine.ErrConflict):
		case a.err != nil:
			return fmt.Errorf("client %d: %w", a.client, a.err)
		default:
			done = append(done, a)
		}
	}
	state := maps.Clone(start)
	writers := slices.DeleteFunc(slices.Clone(done), func(a *attempt) bool { return a.index == 0 })
	slices.SortFunc(writers, func(a, b *attempt) int { return int(a.index) - int(b.index) })
	for _, a := range writers {
		next, ok := a.explains(state)
		if !ok {
			return fmt.Errorf("the transaction of client %d at index %d saw %v; in log order it should have seen another state: %v", a.client, a.index, a.saw, state)
		}
		state = next
	}
	if !maps.Equal(state, final) {
		return fmt.Errorf("the store ends with %v, log order gives %v", final, state)
	}
	return linearizable(start, done)
}

// linearizable asks porcupine for an order that respects real time.
func linearizable(start map[string]string, done []*attempt) error {
	model := porcupine.Model{
		Init: func() any { return start },
		Step: func(state, input, _ any) (bool, any) {
			next, ok := input.(*attempt).explains(state.(map[string]string))
			return ok, next
		},
		Equal: func(a, b any) bool { return maps.Equal(a.(map[string]string), b.(map[string]string)) },
	}
	var ops []porcupine.Operation
	for _, a := range done {
		ops = append(ops, porcupine.Operation{ClientId: a.client, Input: a, Call: a.call, Return: a.ret})
	}
	if r := porcupine.CheckOperationsTimeout(model, ops, 20*time.Second); r == porcupine.Illegal {
		return errors.New("no serial order explains the history in real time")
	}
	return nil
}
