package engine

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// scratchCompression is for tables that are removed again.
var scratchCompression = sstable.NoCompression

// builtCompression compresses the blocks of a table, from time to time to see what that brings, as long as it brings a third: less is not worth a
// third of the time of a restore. Compactions compress what they rewrite as usual.
var builtCompression = func() *sstable.CompressionProfile {
	p := *sstable.SnappyCompression
	p.OtherBlocks = sstable.NoCompression.OtherBlocks
	p.AdaptiveReductionCutoffPercent = 33
	return &p
}()

// rowCompression is Snappy, as long as it makes blocks smaller: Pebble keeps them as they are below 12 % anyway, but would try each.
var rowCompression = func() *sstable.CompressionProfile {
	p := *sstable.SnappyCompression
	p.OtherBlocks = sstable.NoCompression.OtherBlocks
	p.AdaptiveReductionCutoffPercent = p.MinReductionPercent
	return &p
}()

// tableFile is the file of a table that a Builder writes. It is made durable in the background, while the next one is written: await tells
// how that ended. A scratch file is never synced.
type tableFile struct {
	path    string
	f       vfs.File
	w       *bufio.Writer
	scratch bool
	synced  chan error
}

// tableFileBuffer is how much of a table is written at once.
const tableFileBuffer = 256 << 10

func newTableFile(fs vfs.FS, path string, scratch bool) (*tableFile, error) {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("engine: create %s: %w", path, err)
	}
	return &tableFile{path: path, f: f, w: bufio.NewWriterSize(f, tableFileBuffer), scratch: scratch, synced: make(chan error, 1)}, nil
}

// Write implements objstorage.Writable.
func (t *tableFile) Write(p []byte) error {
	_, err := t.w.Write(p)
	return err
}

// Finish implements objstorage.Writable, but that the file is durable only when await says so.
func (t *tableFile) Finish() error {
	if err := t.w.Flush(); err != nil {
		t.Abort()
		return err
	}
	if t.scratch {
		err := t.f.Close()
		t.synced <- nil
		return err
	}
	go func() { t.synced <- errors.Join(t.f.Sync(), t.f.Close()) }()
	return nil
}

// Abort implements objstorage.Writable.
func (t *tableFile) Abort() { t.synced <- t.f.Close() }

// await returns when nothing happens to the file any more; once, after Finish or Abort. nil has nothing to wait for.
func (t *tableFile) await() error {
	if t == nil {
		return nil
	}
	if err := <-t.synced; err != nil {
		return fmt.Errorf("engine: sync %s: %w", t.path, err)
	}
	return nil
}
