package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Actor and label of the removal of expired rows.
const ttlActor = "_ttl"

// sweepBatch bounds the rows removed by one transaction.
const sweepBatch = 256

// sweeper finds rows whose deadline has passed. Deadlines stand in Pebble beside the rows, ordered by time, so neither
// memory nor start-up time grows with their number.
type sweeper struct {
	mu   sync.Mutex   // one sweep at a time
	next atomic.Int64 // no row has an earlier deadline (Unix ms); MaxInt64: there are none
}

// expect takes note of a new deadline. It must be called after the row became visible.
func (w *sweeper) expect(deadline int64) {
	for {
		n := w.next.Load()
		if deadline >= n || w.next.CompareAndSwap(n, deadline) {
			return
		}
	}
}

type expired struct {
	table    string
	key      []byte
	deadline int64
}

// SweepExpired removes all rows whose deadline has passed by the store's clock and returns how many. The store does
// so by itself every Options.SweepInterval. Each removal is an ordinary logged transaction that takes effect only
// if the row still has that deadline.
func (s *Store) SweepExpired(ctx context.Context) (int, error) {
	w := &s.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	total := 0
	for {
		now := s.now().UnixMilli()
		if w.next.Load() > now {
			return total, nil
		}
		rows, err := s.findExpired(now)
		if err != nil || len(rows) == 0 {
			return total, err
		}
		n, err := s.remove(ctx, rows)
		total += n
		s.stats.expired.Add(uint64(n))
		if err != nil {
			w.expect(rows[0].deadline)
			return total, err
		}
	}
}

// findExpired returns up to sweepBatch rows with a deadline at or before now.
func (s *Store) findExpired(now int64) ([]expired, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	from := s.sweep.next.Swap(math.MaxInt64) // whatever becomes visible after the version reports itself
	rows, next, err := s.readDeadlines(from, now)
	if err != nil {
		next = from
	}
	s.sweep.expect(next)
	return rows, err
}

func (s *Store) readDeadlines(from, now int64) (rows []expired, next int64, err error) {
	v, err := s.acquire()
	if err != nil {
		return nil, 0, err
	}
	defer v.release()
	it, err := v.snap.NewIter(&pebble.IterOptions{
		LowerBound: be.AppendUint64([]byte{spaceDeadline}, uint64(max(from, 0))),
		UpperBound: []byte{spaceDeadline + 1},
	})
	if err != nil {
		return nil, 0, s.storeErr("scan", []byte{spaceDeadline}, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		deadline, table, key, err := splitDeadlineKey(it.Key())
		if err != nil {
			return nil, 0, s.storeErr("scan", it.Key(), err)
		}
		if deadline > now || len(rows) == sweepBatch {
			return rows, deadline, nil
		}
		rows = append(rows, expired{string(table), append([]byte(nil), key...), deadline})
	}
	if err := it.Error(); err != nil {
		return nil, 0, s.storeErr("scan", []byte{spaceDeadline}, err)
	}
	return rows, math.MaxInt64, nil
}

func (s *Store) remove(ctx context.Context, rows []expired) (n int, err error) {
	_, err = s.update(ctx, func(tx *Tx) error {
		n = 0
		for _, r := range rows {
			old, err := tx.get(r.table, r.key)
			if errors.Is(err, ErrNotFound) || (err == nil && old.deadline != r.deadline) {
				continue
			}
			if err != nil {
				return err
			}
			if err := tx.Delete(r.table, r.key); err != nil {
				return err
			}
			n++
		}
		return nil
	}, &txConfig{actor: ttlActor, label: ttlActor, maxTries: defaultTries}, true)
	if err != nil {
		return 0, fmt.Errorf("engine: remove expired rows: %w", err)
	}
	return n, nil
}

// runSweeper is the sweeper goroutine.
func (s *Store) runSweeper() {
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.stop
		cancel()
	}()
	tick := time.NewTicker(s.o.SweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.failed:
			return
		case <-tick.C:
		}
		if c, ok := s.com.(Sweeping); ok && !c.MaySweep() {
			continue
		}
		if _, err := s.SweepExpired(ctx); err != nil && !errors.Is(err, ErrClosed) {
			s.o.Logger.Debug("engine: sweep", "error", err)
		}
	}
}
