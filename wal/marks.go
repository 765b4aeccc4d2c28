package wal

import "fmt"

// writeEndMark promises that the last batch is durable. It is not synced: it
// need not survive what the batch survived anyway, but mostly does.
func (l *Log) writeEndMark() error {
	g := l.tail.seg
	if l.mark == nil {
		l.mark = make([]byte, dataStart) // zeros behind the mark, never changed
	}
	m := endMark{number: l.tail.number - 1, lastIndex: l.tail.nextIndex - 1, offset: uint64(l.tail.offset), chain: l.tail.chain}
	m.encode(l.mark, g.seed)
	if _, err := g.file.WriteAt(l.mark[:g.header.blockSize], l.tail.offset); err != nil && !isNoSpace(err) {
		return fmt.Errorf("write end mark in %s: %w", g.name, err)
	}
	return nil
}

// headMarkEvery so many batches the head mark in LOG follows an idle tail.
const headMarkEvery = 16

// writeHeadMark records in LOG that the batch before the tail is durable. It
// is synced when a segment was activated and on Close. It never overwrites the
// newest synced mark: a torn write must not take away what is certain.
func (l *Log) writeHeadMark(sync bool) error {
	if l.tail.number > l.head.number+1 {
		m := headMark{
			sequence: l.head.sequence + 1, segment: l.tail.seg.id, number: l.tail.number - 1, lastIndex: l.tail.nextIndex - 1,
			offset: uint64(l.tail.offset), chain: l.tail.chain,
		}
		if m.sequence%2 == l.headSynced%2 {
			m.sequence++
		}
		m.encode(l.headBuf[:], l.id.logID)
		at := int64(1+m.sequence%2) * headMarkStride
		switch _, err := l.logFile.WriteAt(l.headBuf[:], at); {
		case err == nil:
			l.head = m
		case !isNoSpace(err):
			return fmt.Errorf("write head mark: %w", err)
		}
	}
	if !sync {
		return nil
	}
	if err := l.logFile.SyncData(); err != nil {
		return fmt.Errorf("sync head mark: %w", err)
	}
	l.headSynced = l.head.sequence
	return nil
}
