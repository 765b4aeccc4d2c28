package engine

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// spaceCheck knows how much disk is free, without asking at every write.
type spaceCheck struct {
	fs   vfs.FS
	dir  string
	min  uint64
	now  func() time.Time
	log  func() int64 // bytes written so far
	mu   sync.Mutex
	at   time.Time
	seen int64
	free uint64
	have bool
}

const (
	spaceAge   = 200 * time.Millisecond
	spaceBytes = 8 << 20
)

// available returns the free bytes; MaxUint64 where the file system does not say.
func (c *spaceCheck) available() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, written := c.now(), c.log()
	age := now.Sub(c.at)
	if c.have && age >= 0 && age < spaceAge && written-c.seen < spaceBytes {
		return c.free
	}
	c.have, c.at, c.seen = true, now, written
	c.free = math.MaxUint64
	if u, err := c.fs.GetDiskUsage(c.dir); err == nil {
		c.free = u.AvailBytes
	}
	return c.free
}

func (c *spaceCheck) low() bool { return c.available() < c.min }

// exhausted is called when a write met a full disk: ask again before the next one.
func (c *spaceCheck) exhausted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.have = false
}

// writable refuses writes on a nearly full disk.
func (s *Store) writable() error {
	if free := s.space.available(); free < s.space.min {
		s.stats.noSpace.Add(1)
		return fmt.Errorf("%w: %d MiB free in %s, %d MiB are kept free", ErrNoSpace, free>>20, s.dir, s.space.min>>20)
	}
	return nil
}
