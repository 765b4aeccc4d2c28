package wal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// failedName is a file that a log writes when it fails (see failedMark).
const failedName = "FAILED"

// writeFailedMark notes the number of the batch whose write or fdatasync
// failed. After a failed fdatasync the kernel keeps the bytes in its page
// cache and calls them clean although the disk never got them, so the next
// process, on the same running machine, would find the batch valid and build
// on it, and no fdatasync would ever write it. The batch was never
// acknowledged: with the mark Open cuts it.
//
// The mark is not synced. It matters only while the page cache lives, and then
// it is visible; after a power loss the disk tells the truth by itself.
func (l *Log) writeFailedMark() {
	f, err := l.fs.Create(l.fs.PathJoin(l.dir, failedName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return // a disk that takes no file takes no further append either
	}
	m := headMark{sequence: 1, segment: l.tail.seg.id, number: l.tail.number, offset: uint64(l.tail.offset), chain: l.tail.chain}
	b := make([]byte, headMarkSize)
	m.encode(b, l.id.logID)
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		l.o.Logger.Error("cannot note the failed write", "error", err)
	}
}

// readFromDisk makes the scan see the newest segments as the disk has them: it
// writes back what is dirty and drops the page cache. Should a process have
// died between a failed fdatasync and its mark, the batch that the disk never
// got shows as torn. Dropping is advice to the kernel, so the mark stays the
// first line of defence.
func (s *survey) readFromDisk() error {
	newest := s.used[max(0, len(s.used)-2):]
	if s.next != nil {
		newest = append(newest[:len(newest):len(newest)], s.next)
	}
	for _, f := range newest {
		if err := f.file.SyncData(); err != nil {
			return fmt.Errorf("wal: sync %s: %w", f.name, err)
		}
		if err := dropCache(f.file, f.size); err != nil {
			return fmt.Errorf("wal: read %s from disk: %w", f.name, err)
		}
	}
	return nil
}

// readFailedMark sets s.failed. A mark that does not decode was torn by a
// power loss and says nothing.
func (s *survey) readFailedMark() error {
	b, err := readFile(s.fs, s.fs.PathJoin(s.dir, failedName), headMarkSize)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s.sawFailed = true
	if m, err := decodeHeadMark(b, s.identity.logID); err == nil {
		s.failed = m.number
	}
	return nil
}

// wipeFailed destroys the failed first batch of a segment that is about to be
// activated, before the mark goes: the mark must never meet a batch of the
// same number that was acknowledged.
func (l *Log) wipeFailed(s *survey, f *segmentFile) error {
	if !s.sawFailed {
		return nil
	}
	if _, err := f.file.WriteAt(make([]byte, 2*dataStart), 0); err != nil {
		return fmt.Errorf("wal: wipe %s: %w", f.name, err)
	}
	if err := f.file.SyncData(); err != nil {
		return fmt.Errorf("wal: wipe %s: %w", f.name, err)
	}
	return l.clearFailedMark(s)
}

// clearFailedMark removes the mark for good. The batch it cut is overwritten
// and synced; nothing has been appended yet.
func (l *Log) clearFailedMark(s *survey) error {
	if !s.sawFailed {
		return nil
	}
	if err := l.fs.Remove(l.fs.PathJoin(l.dir, failedName)); err != nil {
		return fmt.Errorf("wal: clear %s: %w", failedName, err)
	}
	return syncDir(l.fs, l.dir)
}
