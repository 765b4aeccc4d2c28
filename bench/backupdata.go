package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/erlmcp/erlmcp/engine"
)

// The records of the backup benchmark: JSON documents of 257 to 1936 bytes, 1.1 KB on average, that zstd -3 makes about three times
// smaller, in the order of their keys.

const backupTable = "orders"

// meanRecord is about what a record has, in bytes.
const meanRecord = 1100

// words are what texts are made of.
var words = makeWords(3000)

func makeWords(n int) []string {
	r := rand.New(rand.NewPCG(42, 42))
	const consonants, vowels = "bcdfghklmnprstvw", "aeiou"
	out := make([]string, n)
	for i := range out {
		var w []byte
		for range 1 + r.IntN(4) {
			w = append(w, consonants[r.IntN(len(consonants))], vowels[r.IntN(len(vowels))])
		}
		out[i] = string(w) + string(consonants[r.IntN(len(consonants))])
	}
	return out
}

// recordKey spreads numbers over the keys, so that inserts fall anywhere.
func recordKey(n uint64) []byte {
	return fmt.Appendf(nil, "%016x", n*0x9e3779b97f4a7c15)
}

// recordValue is a document; r decides all of it but the key.
func recordValue(r *rand.Rand, key []byte) []byte {
	b := fmt.Appendf(nil, `{"id":"WO-%s","bucket":"%s","status":"%s","priority":%d,"created_at":"2026-%02d-%02dT%02d:%02d:%02d.%03dZ","sku":"SKU-%06d","owner":"team-%d","checksum":"`,
		key, []string{"security", "reliability", "compliance", "cost", "features", "technical_debt"}[r.IntN(6)], []string{"queued", "in_progress", "completed", "cancelled"}[r.IntN(4)],
		1+r.IntN(10), 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000), r.IntN(50000), r.IntN(40))
	var sum [16]byte
	binary.LittleEndian.PutUint64(sum[:], r.Uint64())
	binary.LittleEndian.PutUint64(sum[8:], r.Uint64())
	b = fmt.Appendf(b, `%x","description":"`, sum)
	for end := len(b) + 1 + r.IntN(1660); len(b) < end; {
		// Some words are much more common than others, as in any text.
		x := r.Float64()
		b = append(append(b, words[int(x*x*x*float64(len(words)))]...), ' ')
	}
	return append(b, `"}`...)
}

// backupStore opens the store of a cell as erlmcp serve would.
func backupStore(c cell) (*engine.Store, error) { return engine.Open(c.Dir, engine.Options{}) }

// putter collects writes into transactions of about a megabyte.
type putter struct {
	s    *engine.Store
	keys [][]byte
	vals [][]byte
	size int
	all  int64
}

func (p *putter) put(key, value []byte) error {
	p.keys, p.vals = append(p.keys, key), append(p.vals, value)
	p.size += len(key) + len(value)
	p.all += int64(len(key) + len(value))
	if p.size < 1<<20 {
		return nil
	}
	return p.flush()
}

func (p *putter) flush() error {
	if len(p.keys) == 0 {
		return nil
	}
	_, err := p.s.Update(context.Background(), func(tx *engine.Tx) error {
		for i := range p.keys {
			if err := tx.Put(backupTable, p.keys[i], p.vals[i]); err != nil {
				return err
			}
		}
		return nil
	})
	p.keys, p.vals, p.size = p.keys[:0], p.vals[:0], 0
	return err
}

// backupFillCell writes c.Entries records into a new store.
func backupFillCell(c cell) (outcome, error) {
	s, err := backupStore(c)
	if err != nil {
		return outcome{}, err
	}
	p, r := &putter{s: s}, rand.New(rand.NewPCG(c.Seed, 1))
	for n := range c.Entries {
		key := recordKey(uint64(n))
		if err := p.put(key, recordValue(r, key)); err != nil {
			return outcome{}, err
		}
	}
	return outcome{Entries: c.Entries}, errors.Join(p.flush(), s.Close())
}

// backupChangeCell changes a store of c.Entries records: Version says how.
//
//	random SHARE  SHARE % of the records are rewritten, and as many inserted, anywhere
//	runs SHARE    the same in runs of 1000 neighbours
//	log BYTES     records anywhere are rewritten until so many bytes were written
//
// The outcome's Entries is how many records there are then.
func backupChangeCell(c cell) (outcome, error) {
	var how string
	var amount float64
	if _, err := fmt.Sscan(c.Version, &how, &amount); err != nil {
		return outcome{}, fmt.Errorf("change %q: %w", c.Version, err)
	}
	s, err := backupStore(c)
	if err != nil {
		return outcome{}, err
	}
	p, r, total := &putter{s: s}, rand.New(rand.NewPCG(c.Seed, uint64(c.Entries))), c.Entries
	n := int(amount / 100 * float64(c.Entries))
	rewrite := func(key []byte) error { return p.put(key, recordValue(r, key)) }
	insert := func() error { total++; return rewrite(recordKey(uint64(total - 1))) }
	switch how {
	case "log":
		for err == nil && p.all < int64(amount) {
			err = rewrite(recordKey(uint64(r.IntN(c.Entries))))
		}
	case "random":
		for range n {
			if err = errors.Join(rewrite(recordKey(uint64(r.IntN(c.Entries)))), insert()); err != nil {
				break
			}
		}
	case "runs":
		const run = 1000
		for done := 0; done < n && err == nil; done += run {
			err = eachNeighbour(s, recordKey(r.Uint64()), run, func(key []byte) error {
				// A new record right behind an old one has a key of its own.
				return errors.Join(rewrite(key), rewrite(append(key[:len(key):len(key)], '~', byte('a'+r.IntN(26)))))
			})
		}
	default:
		err = fmt.Errorf("no change %q", how)
	}
	return outcome{Entries: total, DiskMB: float64(p.all) / 1e6}, errors.Join(err, p.flush(), s.Close())
}

// eachNeighbour calls fn for the keys from one on.
func eachNeighbour(s *engine.Store, from []byte, n int, fn func(key []byte) error) error {
	var keys [][]byte
	err := s.View(context.Background(), func(tx *engine.Tx) error {
		keys = keys[:0]
		return tx.Scan(backupTable, engine.Range{Lo: from, Limit: n}, func(key, _ []byte) bool {
			keys = append(keys, append([]byte{}, key...))
			return true
		})
	})
	for _, key := range keys {
		if err == nil {
			err = fn(key)
		}
	}
	return err
}

// backupDumpCell writes all records of a store into c.Path, one {"key":..., "value":...} a line, as a dump for the other tools.
func backupDumpCell(c cell) (o outcome, err error) {
	s, err := backupStore(c)
	if err != nil {
		return o, err
	}
	f, err := os.Create(c.Path)
	if err != nil {
		return o, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = s.View(context.Background(), func(tx *engine.Tx) error {
		var bad error
		err := tx.Scan(backupTable, engine.Range{}, func(key, value []byte) bool {
			o.Entries++
			line := strconv.AppendQuote([]byte(`{"key":`), string(key))
			line = append(append(append(line, `,"value":`...), value...), '}', '\n')
			_, bad = w.Write(line)
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	return o, errors.Join(err, w.Flush(), f.Close(), s.Close())
}

// lastResult decodes the result line of a command with --json.
func lastResult(out []byte, into any) error {
	var last []byte
	for line := range splitLines(out) {
		if len(line) > 0 {
			last = line
		}
	}
	var l struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(last, &l); err != nil {
		return fmt.Errorf("%s: %w", last, err)
	}
	return json.Unmarshal(l.Result, into)
}
