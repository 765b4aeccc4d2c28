package node

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/wal"
)

// HasStore makes sure that there is a store in a directory, which it makes absolute; otherwise integrity.ErrNothingThere.
func HasStore(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return dir, err
	}
	if _, err := os.Stat(filepath.Join(dir, "FORMAT")); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = integrity.ErrNothingThere
		}
		return dir, fmt.Errorf("%s: %w", dir, err)
	}
	return dir, nil
}

// StoppedStatus looks at a directory that no server uses, without changing, locking or replaying anything. The store is shown as it
// was last flushed; what the log holds beyond that is applied by the next start.
func StoppedStatus(dir string, key []byte) (admin.Status, error) {
	dir, err := HasStore(dir)
	if err != nil {
		return admin.Status{}, err
	}
	s := admin.Status{DataDir: dir, Version: version.Get()}
	if err := inspectStopped(dir, key, &s); err != nil {
		return admin.Status{}, fmt.Errorf("%s: %w", dir, err)
	}
	reader, err := engine.OpenReadOnly(vfs.Default, dir, engine.ReadOptions{Key: key})
	if err != nil {
		return admin.Status{}, fmt.Errorf("%s: %w", dir, err)
	}
	defer reader.Close()
	applied, hash := reader.Applied()
	s.Log.Encrypted = reader.Info().Encrypted
	s.Store.AppliedIndex, s.Store.DurableIndex, s.Store.StateHash = applied, applied, hex.EncodeToString(hash[:])
	return s, nil
}

// inspectStopped fills in the log.
func inspectStopped(dir string, key []byte, s *admin.Status) error {
	var bytes int64
	count := func(info wal.SegmentInfo) error {
		bytes += info.Size
		return nil
	}
	report, err := wal.Inspect(vfs.Default, filepath.Join(dir, "wal"), wal.InspectOptions{Key: key}, wal.Visitor{Segment: count})
	if err != nil {
		return err
	}
	s.Log = admin.Log{
		ID: hex.EncodeToString(report.LogID[:]), FirstIndex: report.FirstIndex, LastIndex: report.LastIndex,
		Segments: report.Segments, BytesOnDisk: bytes, TornTail: report.TornTail,
	}
	for _, f := range report.Damage() {
		s.Log.Damage = append(s.Log.Damage, f.String())
	}
	return nil
}
