package wal

import (
	"fmt"
)

// The decision table. A row applies to the first place where a segment's
// batches stop being valid, or to a file as a whole. "Evidence" is anything
// valid behind the place that could only be written after the batch there was
// durable: a trailer or header of a later batch, an end mark or footer that
// names this batch or a later one.
//
//	row  where                what is found                                verdict
//	 1   last segment, tail   end mark of the batch before, or zeros       clean end
//	 2   last segment, tail   other bytes, no evidence                     torn write: cut, reported
//	 3   last segment, tail   evidence                                     bad-batch: refuse
//	 4   last segment         footer of exactly this end, next unused      continue in the next segment
//	 5   last segment         footer of exactly this end, no next file     missing-segment: refuse
//	 6   next segment         no header, evidence under its derived seed   bad-header: refuse
//	 7   next segment         no header, no evidence                       never used: used now
//	 8   sealed segment       stops where the next segment continues       complete
//	 9   sealed segment       stops anywhere else                          bad-batch: refuse
//	10   sealed segment       complete, its footer is invalid              bad-footer: rewritten, reported
//	11   any used segment     one header copy invalid                      header-copy: rewritten, reported
//	12   any used segment     both header copies invalid                   bad-header: refuse
//	13   any used segment     name, id and log id differ                   misplaced: refuse
//	14   any used segment     wrong file size                              wrong-size: refuse
//	15   start of the log     first needed segment is not there            missing-segment: refuse
//	16   before the start     a leftover of TruncateFront                  removed, whatever it holds
//	17   used segments        chain does not continue                      chain-break: refuse
//	18   LOG                  missing or invalid, segments agree           bad-identity: rewritten, reported
//	19   LOG                  valid, but no segment 1 and no used segment  missing-segment: refuse
//	20   last segment         header, but no valid batch and no evidence   activation was torn: activated again
//	21   end of the log       head mark in LOG names a later batch         bad-batch, missing-segment: refuse
//	22   next segment         header of an earlier segment, the head mark  torn activation: used now, reported; a
//	                          is older, no evidence                        prepared one is wiped, reported
//
// judge applies it to a survey whose used segments were scanned. It only adds
// findings; whether damage stops the caller is the caller's business.
func (s *survey) judge() (end ending) {
	if len(s.used) == 0 {
		return s.judgeUnused()
	}
	s.replayControls()
	if s.start.segment == 0 {
		// No state record anywhere: the first batch of the only segment never
		// became durable, or is damaged.
		s.start = logStart{segment: s.used[0].id, index: s.used[0].header.firstIndex}
	}
	live := s.live()
	s.checkFiles(live)
	for i, f := range live {
		if i+1 < len(live) {
			s.judgeSealed(f, live[i+1])
		}
	}
	if len(live) > 0 {
		end = s.judgeLast(live)
	}
	if s.firstDamage() == nil {
		s.judgeHead(live, end)
		s.judgeStart()
	}
	return end
}

// judgeHead holds the end against the head mark in LOG, which stands far from
// the tail (row 21).
func (s *survey) judgeHead(live []*segmentFile, end ending) {
	if s.head.number == 0 {
		return
	}
	last := end.before
	if end.active != nil {
		last = end.active.end
	}
	if last.number > s.head.number {
		return
	}
	what := fmt.Sprintf("the head mark in %s says that batch %d (index %d, segment %d) was durable", identityName, s.head.number, s.head.lastIndex, s.head.segment)
	if n := len(live); n > 0 && live[n-1].id == s.head.segment {
		s.addBadBatch(live[n-1], s.head.lastIndex, what)
		return
	}
	s.add(Finding{
		Kind: KindMissingSegment, Severity: SeverityDamage, Segment: s.head.segment, File: segmentName(s.head.segment),
		FirstIndex: last.nextIndex, LastIndex: s.head.lastIndex,
		Message: fmt.Sprintf("the log ends with batch %d, but %s", last.number-1, what), Advice: adviceDamage,
	})
}

// ending says where the log goes on.
type ending struct {
	// active is the segment to append to; its batches end at active.end. Nil
	// if a segment must be activated first.
	active *segmentFile
	// activate is the id of the segment to activate when active is nil.
	activate uint64
	before   position // what the activated segment continues
	torn     *Finding
}

// live is the part of the used segments at or after the log's start.
func (s *survey) live() []*segmentFile {
	for i, f := range s.used {
		if f.id >= s.start.segment {
			return s.used[i:]
		}
	}
	return nil
}

// judgeUnused: no segment carries a header (rows 6, 7, 19).
func (s *survey) judgeUnused() ending {
	if !s.idOK && len(s.files) == 0 {
		return ending{activate: 1}
	}
	if s.next == nil || s.next.id != 1 {
		if s.head.segment != 0 && s.fileOf(s.head.segment) == nil {
			s.add(Finding{
				Kind: KindMissingSegment, Severity: SeverityDamage, Segment: s.head.segment, File: segmentName(s.head.segment),
				LastIndex: s.head.lastIndex,
				Message:   fmt.Sprintf("segment %d was the newest one (head mark in %s), but it is not there", s.head.segment, identityName), Advice: adviceFile,
			})
		} else if len(s.files) > 0 {
			f := s.files[0]
			s.add(Finding{
				Kind: KindBadHeader, Severity: SeverityDamage, Segment: f.id, File: f.name, Length: dataStart,
				Message: fmt.Sprintf("both copies of the header of segment %d are destroyed and no other segment tells them", f.id), Advice: adviceDamage,
			})
		} else {
			s.add(Finding{
				Kind: KindMissingSegment, Severity: SeverityDamage, Segment: 1, File: segmentName(1),
				Message: "the log has an identity but no segment", Advice: adviceFile,
			})
		}
		return ending{}
	}
	s.start = logStart{segment: 1, index: 1}
	before := position{number: 1, nextIndex: 1, chain: genesis(s.identity.logID)}
	s.judgeNext(s.next, before)
	end := ending{activate: 1, before: before}
	if s.firstDamage() == nil {
		s.judgeHead(nil, end)
	}
	return end
}

// judgeStart checks that the log begins where it says (row 15). Damage hides
// records that moved the start, so this is asked only when there is none.
func (s *survey) judgeStart() {
	if low := s.used[0].id; low > s.start.segment {
		s.add(Finding{
			Kind: KindMissingSegment, Severity: SeverityDamage, Segment: low - 1, File: segmentName(low - 1),
			FirstIndex: s.start.index, LastIndex: s.used[0].header.firstIndex - 1,
			Message: fmt.Sprintf("the log starts in segment %d, but %d is the oldest one that connects to the newest", s.start.segment, low),
			Advice:  adviceFile,
		})
	}
}

// judgeSealed: a segment that another one follows (rows 8, 9, 10, 17).
func (s *survey) judgeSealed(f, next *segmentFile) {
	if !f.placed(s) || !next.placed(s) {
		return // reported by checkFiles
	}
	if f.end.number == next.header.firstBatch && f.end.chain == next.header.prevChain {
		if !f.footerOK {
			s.add(Finding{
				Kind: KindBadFooter, Severity: SeverityRepaired, Segment: f.id, File: f.name, Offset: f.header.segmentSize - footerSize, Length: footerSize,
				Message: fmt.Sprintf("the footer of segment %d is damaged; all its batches are intact", f.id), Advice: adviceRepair,
			})
		}
		return
	}
	if f.end.number == next.header.firstBatch || f.tail == tailSealed {
		s.add(Finding{
			Kind: KindChainBreak, Severity: SeverityDamage, Segment: next.id, File: next.name, FirstIndex: next.header.firstIndex,
			Message: fmt.Sprintf("segment %d does not continue segment %d: the chain values differ", next.id, f.id), Advice: adviceDamage,
		})
		return
	}
	s.addBadBatch(f, next.header.firstIndex-1, fmt.Sprintf("segment %d follows and starts at batch %d", next.id, next.header.firstBatch))
}

// judgeLast: the newest segment with a header (rows 1 to 7, 20).
func (s *survey) judgeLast(live []*segmentFile) (e ending) {
	f := live[len(live)-1]
	if !f.placed(s) {
		return e // reported by checkFiles
	}
	switch f.tail {
	case tailLost:
		s.addBadBatch(f, 0, fmt.Sprintf("a valid %s of batch %d at offset %d proves that the log went on", f.proof.kind, f.proof.number, f.proof.offset))
		return e
	case tailSealed:
		if s.next == nil {
			s.add(Finding{
				Kind: KindMissingSegment, Severity: SeverityDamage, Segment: f.id + 1, File: segmentName(f.id + 1), FirstIndex: f.end.nextIndex,
				Message: fmt.Sprintf("segment %d is sealed, so segment %d existed, but it is not there", f.id, f.id+1), Advice: adviceFile,
			})
			return e
		}
		s.judgeNext(s.next, f.end)
		e = ending{activate: f.id + 1, before: f.end}
		if s.next.stray != nil && s.firstDamage() == nil {
			e.torn = s.tornActivation(s.next, f.end)
		}
		return e
	case tailTorn:
		e.torn = &Finding{
			Kind: KindTornTail, Severity: SeverityInfo, Segment: f.id, File: f.name, Offset: f.end.offset, FirstIndex: f.end.nextIndex,
			Message: fmt.Sprintf("the last write (batch %d, %s) did not finish", f.end.number, reason(f.stop)), Advice: adviceTorn,
		}
		s.add(*e.torn)
	}
	if len(f.batches) == 0 {
		return s.reactivate(live, f, e)
	}
	if n := s.next; n != nil && n.stray != nil {
		s.add(Finding{
			Kind: KindMisplaced, Severity: SeverityRepaired, Segment: n.id, File: n.name, Length: dataStart,
			Message: fmt.Sprintf("segment %d was prepared and never used, but its header is one of segment %d", n.id, n.stray.id), Advice: adviceRepair,
		})
	}
	e.active = f
	return e
}

// tornActivation reports row 22.
func (s *survey) tornActivation(f *segmentFile, before position) *Finding {
	t := &Finding{
		Kind: KindTornTail, Severity: SeverityInfo, Segment: f.id, File: f.name, Length: dataStart, FirstIndex: before.nextIndex,
		Message: fmt.Sprintf("the activation of segment %d did not finish: its sectors hold an old header of segment %d, and the head mark in %s says that segment %d was the newest one in use",
			f.id, f.stray.id, identityName, s.head.segment),
		Advice: adviceTorn,
	}
	s.add(*t)
	return t
}

// reactivate: the newest segment has a header but no batch (row 20). Nothing
// in it was ever acknowledged; it is activated again on top of the one before.
func (s *survey) reactivate(live []*segmentFile, f *segmentFile, e ending) ending {
	e.activate = f.id
	switch {
	case len(live) > 1:
		e.before = live[len(live)-2].end
	case f.id == 1:
		e.before = position{number: 1, nextIndex: 1, chain: genesis(s.identity.logID)}
	default:
		// The log starts in a segment without a batch. Its state record must
		// have been durable before older segments were removed.
		s.addBadBatch(f, 0, "the log starts here, so its first batch was durable")
	}
	return e
}

// judgeNext: a segment without a header (rows 6, 7). Its header can be
// derived, so batches in it would still validate.
func (s *survey) judgeNext(f *segmentFile, before position) {
	h := s.deriveHeader(f.id, before)
	if f.size != h.segmentSize {
		s.add(Finding{
			Kind: KindWrongSize, Severity: SeverityDamage, Segment: f.id, File: f.name, Offset: f.size, FirstIndex: before.nextIndex,
			Message: fmt.Sprintf("the file has %d bytes, a prepared segment has %d", f.size, h.segmentSize), Advice: adviceDamage,
		})
		return
	}
	sc := newScanner(f.file, f.size, h, nil)
	e, err := sc.search(dataStart, h.firstBatch)
	switch {
	case err != nil:
		s.readErr = fmt.Errorf("wal: read %s: %w", f.name, err)
		s.add(Finding{
			Kind: KindUnreadable, Severity: SeverityDamage, Segment: f.id, File: f.name,
			Message: err.Error(), Advice: adviceDamage,
		})
	case e != nil && !e.weak:
		what := "are destroyed"
		if f.stray != nil {
			what = fmt.Sprintf("are destroyed (what stands there belongs to segment %d)", f.stray.id)
		}
		s.add(Finding{
			Kind: KindBadHeader, Severity: SeverityDamage, Segment: f.id, File: f.name, Length: dataStart, FirstIndex: before.nextIndex,
			Message: fmt.Sprintf("both header copies of segment %d %s, and a valid %s at offset %d proves that it was in use", f.id, what, e.kind, e.offset),
			Advice:  adviceDamage,
		})
	}
}

// deriveHeader is the header that the segment after `before` must have.
func (s *survey) deriveHeader(id uint64, before position) segmentHeader {
	h := segmentHeader{
		flags: s.identity.flags, blockSize: minBlockSize, segmentSize: s.identity.segmentSize,
		id: id, firstIndex: before.nextIndex, firstBatch: before.number,
		logID: s.identity.logID, prevChain: before.chain, keyCheck: s.identity.keyCheck,
	}
	if len(s.used) > 0 {
		h.blockSize = s.used[len(s.used)-1].header.blockSize
	}
	return h
}

func (s *survey) addBadBatch(f *segmentFile, last uint64, why string) {
	s.add(Finding{
		Kind: KindBadBatch, Severity: SeverityDamage, Segment: f.id, File: f.name, Offset: f.end.offset,
		FirstIndex: f.end.nextIndex, LastIndex: last,
		Message: fmt.Sprintf("batch %d is damaged (%s) although it was durable: %s", f.end.number, reason(f.stop), why),
		Advice:  adviceDamage,
	})
}

func reason(err error) string {
	if b, ok := err.(*badBatch); ok {
		return b.reason
	}
	return "no reason known"
}

// firstDamage returns the finding that stops the log from opening.
func (s *survey) firstDamage() error {
	for _, f := range s.findings {
		switch {
		case f.Kind == KindUnreadable:
			return s.readErr // the disk's trouble is no verdict about the bytes
		case f.Severity == SeverityDamage:
			return &CorruptError{f}
		}
	}
	return nil
}
