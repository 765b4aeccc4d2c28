package fuzz

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// dbSpecimen is a healthy store at rest that damage is done to.
type dbSpecimen struct {
	body
	name    string
	cfg     dbConfig
	model   rows
	earlier []digest
	closed  bool
	mark    region
}

// dbSpecimens returns stores with several tables flushed, some compaction, and
// a part that is in the log only.
func dbSpecimens(t *testing.T, seed uint64) []*dbSpecimen {
	var out []*dbSpecimen
	for _, k := range []struct {
		name   string
		seed   uint64
		retain int64
		closed bool
	}{
		{"closed", 1, 0, true},
		{"killed", 3, -1, false},
		{"encrypted", 2, 0, false},
	} {
		cfg := dbConfigOf(k.name, seed*16+k.seed, k.retain)
		d, err := newDisk(cfg.Seed)
		require.NoError(t, err)
		r := newDBRecorder(d, cfg)
		r.open()
		s := &dbSpecimen{name: k.name, cfg: cfg, closed: k.closed, body: body{dir: dbDir + "/wal"}}
		for i := range 22 {
			r.update(7000)
			if i%6 == 5 {
				r.checkpoint()
			}
			if i == 12 {
				s.keepOlder(t, d)
			}
		}
		require.NoError(t, r.err)
		if !k.closed {
			require.NoError(t, atRest(r.s.Log()))
			s.disk = d.Clone()
		}
		r.close()
		require.NoError(t, r.err)
		if k.closed {
			s.disk = d.Clone()
		}
		h := r.end()
		s.model, s.earlier = h.modelAt(len(h.Txs)), h.digests[:len(h.Txs)]
		s.survey(t)
		var ok bool
		s.mark, ok = lastOf(s.regions, "end mark")
		require.True(t, ok)
		out = append(out, s)
	}
	return out
}

// TestCorruptionOfTheStoreIsNeverSilent does damage to every file of a data
// directory: log, Pebble, FORMAT, LOCK. Each damage must be detected, at the
// latest by Verify or by the read that meets it, or be harmless.
func TestCorruptionOfTheStoreIsNeverSilent(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	spots := int(env(t, "ERLMCP_CORRUPTIONS", uint64(raceScale(240)))) // as for the log
	for _, s := range dbSpecimens(t, seed) {
		t.Run(s.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0xdead))
			counts := &tally{}
			for _, in := range s.injuries(spots, rng) {
				outcome, err := s.sufferWithin(in, 30*time.Second)
				if err != nil {
					outcome = "FAILED"
					t.Errorf("seed %d, %s: %s: %v", seed, in.class, in.what, err)
				}
				counts.add(in.class + ": " + outcome)
			}
			t.Logf("%d damages to a %s store from seed %d: %s", counts.total(), s.name, seed, counts)
		})
	}
}

// sufferWithin is suffer, with a limit on the time: a store must not hang on
// damage.
func (s *dbSpecimen) sufferWithin(in injury, limit time.Duration) (string, error) {
	type result struct {
		outcome string
		err     error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- result{"", fmt.Errorf("PANIC: %v\n%s", p, debug.Stack())}
			}
		}()
		outcome, err := s.suffer(in)
		done <- result{outcome, err}
	}()
	select {
	case r := <-done:
		return r.outcome, r.err
	case <-time.After(limit):
		return "", fmt.Errorf("no answer within %v", limit)
	}
}

// suffer does one damage to a copy of the specimen and judges the outcome.
func (s *dbSpecimen) suffer(in injury) (outcome string, err error) {
	d := s.disk.Clone()
	if err := in.do(d); err != nil {
		return "", err
	}
	if err := s.lookOnly(d); err != nil {
		return "", err
	}
	db, err := engine.Open(dbDir, s.cfg.options(d, 0))
	if herr := handlesInOrder(d); err != nil && herr != nil {
		return "", fmt.Errorf("after a refusal (%w): %w", err, herr)
	}
	if err != nil {
		return s.judgeRefusal(err, in)
	}
	defer db.Close() //nolint:errcheck // only looked at; damage may show again
	got, err := readRows(db)
	if err != nil {
		return judgeRead(err)
	}
	rep, verr := db.Verify(context.Background())
	switch seen := verr != nil || len(rep.Findings) > 0; {
	case got.digest() == s.model.digest() && seen:
		return "detected by verify", nil
	case got.digest() == s.model.digest():
		return "harmless", nil
	case !s.closed && in.hits(s.mark) && len(in.ranges) == 1 && slices.Contains(s.earlier, got.digest()):
		return "undecidable", nil
	case seen:
		return "", fmt.Errorf("WRONG DATA, noticed by verify only (%v %v): %s", verr, rep.Findings, s.model.diff(got))
	default:
		return "", fmt.Errorf("SILENT LOSS: %s", s.model.diff(got))
	}
}

// lookOnly reads the damaged directory as tcpsdump does: whatever it finds, it
// must come to an end, say so with a typed error, and change nothing.
func (s *dbSpecimen) lookOnly(d *simdisk.Disk) error {
	before := d.Fingerprint()
	o := s.cfg.options(d, 0)
	_, ierr := wal.Inspect(d, dbDir+"/wal", wal.InspectOptions{Key: o.Key}, wal.Visitor{})
	r, err := engine.OpenReadOnly(d, dbDir, engine.ReadOptions{Key: o.Key})
	if err == nil {
		err = errors.Join(
			r.Rows("", func(engine.Row) error { return nil }),
			r.Rejected(func(uint64, string) error { return nil }))
		_, verr := r.Verify(context.Background())
		err = errors.Join(err, verr, r.Close())
	}
	if d.Fingerprint() != before {
		return fmt.Errorf("looking at the directory changed it (%w, %w)", ierr, err)
	}
	if err != nil && !errors.Is(err, engine.ErrCorrupt) && !errors.Is(err, engine.ErrNotStore) && !errors.Is(err, engine.ErrVersion) &&
		!errors.Is(err, engine.ErrKeyRequired) && !errors.Is(err, engine.ErrWrongKey) {
		return fmt.Errorf("the read-only reader gives no typed error: %w", err)
	}
	return handlesInOrder(d)
}

// judgeRefusal: a store that does not open says what is wrong in a typed error.
func (s *dbSpecimen) judgeRefusal(err error, in injury) (string, error) {
	for name, want := range map[string]error{
		"corrupt": engine.ErrCorrupt, "not a store": engine.ErrNotStore, "version": engine.ErrVersion,
		"key": engine.ErrKeyRequired, "wrong key": engine.ErrWrongKey,
	} {
		if !errors.Is(err, want) {
			continue
		}
		var c *engine.CorruptError
		if errors.As(err, &c) && (c.What == "" || c.Where == "" || c.Advice == "") {
			return "", fmt.Errorf("the letter is incomplete: %w", err)
		}
		return "detected: " + name, nil
	}
	return "", fmt.Errorf("refused without a typed error: %w", err)
}

// judgeRead: a read that meets damage says so.
func judgeRead(err error) (string, error) {
	if errors.Is(err, engine.ErrCorrupt) || errors.Is(err, engine.ErrFailed) {
		return "detected by read", nil
	}
	return "", fmt.Errorf("a read fails without a typed error: %w", err)
}
