package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/erlmcp/erlmcp/wal"
)

// Set stores a small value durably: 1..4096 bytes, keys up to 200 bytes. While the disk is full it waits: raft
// cannot go on without its vote and term, and a node that waits is as good as a node that is down.
func (s *LogStore) Set(key, val []byte) error {
	if val == nil {
		val = []byte{} // the log takes nil for "delete"
	}
	for {
		if err := s.alive(); err != nil {
			return err
		}
		done := s.pace.writing()
		err := s.log.SetMeta(stablePrefix+string(key), val)
		done()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, wal.ErrInvalid), errors.Is(err, wal.ErrTooLarge):
			return fmt.Errorf("replication: store %q: %w", key, err)
		case !errors.Is(err, wal.ErrNoSpace):
			return s.halt(fmt.Errorf("store %q: %w", key, err))
		}
		if err := s.waitForSpace(err); err != nil {
			return err
		}
	}
}

func (s *LogStore) waitForSpace(cause error) error {
	t := time.NewTimer(s.o.SpaceRetry)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.log.Failed():
		return s.halt(s.log.Err())
	case <-s.release:
		return s.halt(fmt.Errorf("interrupted while waiting for disk space: %w", cause))
	}
}

// Interrupt ends waiting for disk space for good; the owner calls it before it shuts raft down.
func (s *LogStore) Interrupt() { s.ended.Do(func() { close(s.release) }) }

// Get returns the value of key, empty if it was never set.
func (s *LogStore) Get(key []byte) ([]byte, error) {
	v, _ := s.log.Meta(stablePrefix + string(key))
	return v, nil
}

// SetUint64 stores a number durably, like Set.
func (s *LogStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 returns the number of key, 0 if it was never set.
func (s *LogStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	switch {
	case err != nil:
		return 0, err
	case len(v) == 0:
		return 0, nil
	case len(v) != 8:
		return 0, s.condemn(fmt.Errorf("%w: %q has %d bytes, a number has 8", errFormat, key, len(v)))
	}
	return binary.BigEndian.Uint64(v), nil
}

// WasMember reports whether a log has belonged to a member of a cluster: its term stands in it.
func WasMember(log *wal.Log) bool {
	_, ok := log.Meta(stablePrefix + "CurrentTerm")
	return ok
}
