package store

import (
	"context"
	"sync"
	"time"
)

// Limited is a store whose reads and writes together take at most so many bytes per second, so that a backup leaves room on the line.
type Limited struct {
	Store
	rate  int64
	now   func() time.Time
	sleep func(context.Context, time.Duration) error

	mu   sync.Mutex
	free time.Time // when the line is free again
}

// Limit wraps a store; rate is in bytes per second and at least 1. Bodies go through whole: an object of n bytes keeps the line busy for
// n/rate seconds after it.
func Limit(s Store, rate int64) *Limited {
	return &Limited{Store: s, rate: max(rate, 1), now: time.Now, sleep: sleep}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// wait reserves the line for n bytes and waits for its turn.
func (l *Limited) wait(ctx context.Context, n int) error {
	l.mu.Lock()
	now := l.now()
	turn := l.free
	if turn.Before(now) {
		turn = now
	}
	l.free = turn.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	l.mu.Unlock()
	if d := turn.Sub(now); d > 0 {
		return l.sleep(ctx, d)
	}
	return nil
}

// Create implements Store.
func (l *Limited) Create(ctx context.Context, name string, body []byte) error {
	if err := l.wait(ctx, len(body)); err != nil {
		return err
	}
	return l.Store.Create(ctx, name, body)
}

// Replace implements Store.
func (l *Limited) Replace(ctx context.Context, name string, body []byte, old Version) (Version, error) {
	if err := l.wait(ctx, len(body)); err != nil {
		return "", err
	}
	return l.Store.Replace(ctx, name, body, old)
}

// Get implements Store.
func (l *Limited) Get(ctx context.Context, name string) ([]byte, Version, error) {
	b, v, err := l.Store.Get(ctx, name)
	if err != nil {
		return nil, "", err
	}
	return b, v, l.wait(ctx, len(b))
}

// GetRange implements Store.
func (l *Limited) GetRange(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if n >= 0 && n <= MaxObject {
		if err := l.wait(ctx, int(n)); err != nil {
			return nil, err
		}
	}
	return l.Store.GetRange(ctx, name, off, n)
}

// Sweep implements Sweeper, as far as the store does.
func (l *Limited) Sweep(ctx context.Context, t time.Time) (int, error) {
	if s, ok := l.Store.(Sweeper); ok {
		return s.Sweep(ctx, t)
	}
	return 0, nil
}
