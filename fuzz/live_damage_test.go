package fuzz

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/fuzz/simdisk"
	"github.com/erlmcp/erlmcp/wal"
)

// TestDamageUnderALiveLogIsNeverServed damages a segment while the log is open.
// Every later read gives the right entry or ErrCorrupt, Verify finds the damage
// if a read did, and the log goes on taking entries.
func TestDamageUnderALiveLogIsNeverServed(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	s := specimens(t, seed)[0]
	rng := rand.New(rand.NewPCG(seed, 0x11fe))
	counts := &tally{}
	for range env(t, "ERLMCP_CORRUPTIONS", 150) {
		d := s.disk.Clone()
		o := s.cfg.options(d, 0)
		o.RingBytes = -1 // no help from memory
		l, err := wal.Open(logDir, o)
		require.NoError(t, err)
		r := s.spot(rng)
		off := r.off + rng.Int64N(r.n)
		require.NoError(t, d.FlipBit(r.file, off, uint(rng.IntN(8))))
		refused := false
		for i := l.FirstIndex(); i <= l.LastIndex(); i++ {
			e, err := l.Get(i)
			if err != nil {
				require.ErrorIs(t, err, wal.ErrCorrupt, "seed %d: get %d after a flip in the %s at %d", seed, i, r, off)
				refused = true
				continue
			}
			require.Equal(t, s.model.Entries[i], entryDigest(e), "seed %d: WRONG DATA at index %d after a flip in the %s at %d", seed, i, r, off)
		}
		m, err := readLog(l, s.keys)
		if err != nil {
			require.ErrorIs(t, err, wal.ErrCorrupt)
			refused = true
		} else {
			require.Equal(t, s.model.digest(), m.digest())
		}
		rep, err := l.Verify(context.Background())
		if refused {
			require.True(t, err != nil || len(rep.Findings) > 0, "seed %d: a read was refused, verify says clean; flip in the %s at %d", seed, r, off)
		}
		_, err = l.Append(wal.Entry{Type: 1, Data: []byte("still here")})
		require.NoError(t, err)
		require.NoError(t, l.Close())
		if refused {
			counts.add(r.class + ": refused")
		} else {
			counts.add(r.class + ": no effect on reads")
		}
	}
	t.Logf("%d flips under a live log from seed %d: %s", counts.total(), seed, counts)
}

// TestDamageUnderALiveStoreIsNeverServed does the same to a whole store: reads
// give the right rows or a typed error, and nothing panics at Close.
func TestDamageUnderALiveStoreIsNeverServed(t *testing.T) {
	seed := env(t, "ERLMCP_CRASH_SEED", 1)
	s := dbSpecimens(t, seed)[0]
	rng := rand.New(rand.NewPCG(seed, 0x11fe))
	counts := &tally{}
	for range env(t, "ERLMCP_CORRUPTIONS", 60) {
		d := s.disk.Clone()
		db, err := engine.Open(dbDir, s.cfg.options(d, 0))
		require.NoError(t, err)
		r := s.spot(rng)
		off := r.off + rng.Int64N(r.n)
		if err := d.FlipBit(r.file, off, uint(rng.IntN(8))); err != nil {
			// The running store has already replaced that file.
			require.ErrorIs(t, err, os.ErrNotExist)
			require.NoError(t, db.Close())
			continue
		}
		counts.add(r.class + ": " + readDamaged(t, s, db, d))
	}
	t.Logf("%d flips under a live store from seed %d: %s", counts.total(), seed, counts)
}

func readDamaged(t *testing.T, s *dbSpecimen, db *engine.Store, d *simdisk.Disk) string {
	outcome := "no effect on reads"
	m, err := readRows(db)
	switch {
	case errors.Is(err, engine.ErrCorrupt), errors.Is(err, engine.ErrFailed):
		outcome = "refused"
	case err != nil:
		require.NoError(t, err)
	default:
		require.Equal(t, s.model.digest(), m.digest(), "WRONG DATA: %s", s.model.diff(m))
	}
	if rep, err := db.Verify(context.Background()); err != nil || len(rep.Findings) > 0 {
		outcome += ", verify finds it"
	} else {
		require.NotContains(t, outcome, "refused", "verify says clean")
	}
	_ = db.Close() // may complain about the damage; must not panic
	require.Empty(t, d.Misuses())
	return outcome
}
