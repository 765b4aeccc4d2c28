package wal

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	identityName  = "LOG"
	segmentSuffix = ".seg"
	tempName      = "prepare.tmp"
	spareSuffix   = ".spare"
)

func segmentName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentSuffix) }

func parseSegmentName(name string) (id uint64, ok bool) {
	hex, found := strings.CutSuffix(name, segmentSuffix)
	if !found || len(hex) != 16 || strings.ToLower(hex) != hex {
		return 0, false
	}
	id, err := strconv.ParseUint(hex, 16, 64)
	return id, err == nil && id > 0
}

// A survey is everything a look at the log's directory tells, before anybody
// decides what to do about it. Open, Verify and Inspect share it.
type survey struct {
	fs   vfs.FS
	dir  string
	key  []byte
	keep bool // keep the segment files open

	exists   bool // there is something of a log here
	identity identity
	idOK     bool     // LOG was read and valid
	head     headMark // the newest valid one of LOG; zero if there is none
	spares   []string
	unknown  []string

	files []*segmentFile // ascending id; all *.seg
	// used is the run of consecutive segments with a header that ends at the
	// newest one.
	used []*segmentFile
	// next is the segment after the newest used one, without a header: either
	// prepared and never used, or used and damaged.
	next *segmentFile

	start logStart
	metas map[string][]byte
	// failed is the number of the batch whose write failed in an earlier
	// process (see failed.go); it and everything behind it was never
	// acknowledged. Zero: none.
	failed    uint64
	sawFailed bool
	readErr   error // of the disk, when a finding is of kind unreadable
	// Findings about files, not about the bytes of batches.
	findings []Finding
}

// A segmentFile is one *.seg file and what scanning it found.
type segmentFile struct {
	id     uint64
	name   string
	file   vfs.File
	size   int64
	header segmentHeader
	// copies holds which of the two header copies are valid.
	copies [2]bool
	seed   uint32
	aead   cipher.AEAD

	first    position // at the first batch
	end      position // behind the last valid batch
	stop     error    // why no batch was read at end; *badBatch or nil
	tail     tailState
	proof    *evidence
	batches  []batchRef
	offsets  []uint32 // record offset of every entry, plain logs only
	controls []controlEvent
	records  uint64
	entries  uint64
	footer   *segmentFooter
	footerOK bool // footer and its body agree with the batches
	// stray is the header of an earlier segment that stands in this file although
	// it was never in use (row 22), or nil.
	stray *segmentHeader
}

type controlEvent struct {
	op   byte
	data []byte
}

func (f *segmentFile) hasHeader() bool { return f.copies[0] || f.copies[1] }

// placed: the header belongs to this file and this log.
func (f *segmentFile) placed(s *survey) bool {
	return f.hasHeader() && f.header.id == f.id && f.header.logID == s.identity.logID
}

func (s *survey) add(f Finding) { s.findings = append(s.findings, f) }

// list reads the directory, the identity and all segment headers.
func (s *survey) list() error {
	names, err := s.fs.List(s.dir)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wal: list %s: %w", s.dir, err)
	}
	slices.Sort(names)
	if err := s.checkNames(names); err != nil {
		return err
	}
	sawIdentity := false
	for _, name := range names {
		id, isSegment := parseSegmentName(name)
		switch {
		case isSegment:
			s.files = append(s.files, &segmentFile{id: id, name: name})
		case name == identityName:
			sawIdentity = true
		case name == failedName:
		case name == tempName || strings.HasSuffix(name, spareSuffix) || name == identityName+".tmp":
			s.spares = append(s.spares, name)
		default:
			s.unknown = append(s.unknown, name)
		}
	}
	slices.SortFunc(s.files, func(a, b *segmentFile) int { return compareUint(a.id, b.id) })
	s.exists = sawIdentity || len(s.files) > 0
	if sawIdentity {
		if err := s.readIdentity(); err != nil {
			return err
		}
	}
	for _, f := range s.files {
		if err := s.readHeader(f); err != nil {
			return err
		}
	}
	s.resolve()
	return s.readFailedMark()
}

// checkNames is checkKinds for the names that belong to the log.
func (s *survey) checkNames(names []string) error {
	var ours []string
	for _, name := range names {
		_, isSegment := parseSegmentName(name)
		if isSegment || name == identityName || name == failedName || name == tempName || name == identityName+".tmp" || strings.HasSuffix(name, spareSuffix) {
			ours = append(ours, name)
		}
	}
	return checkKinds(s.fs, s.dir, ours, s.keep)
}

func compareUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (s *survey) readIdentity() error {
	b, err := readFile(s.fs, s.fs.PathJoin(s.dir, identityName), logFileSize)
	if err != nil {
		return err
	}
	id, version, err := decodeIdentity(b)
	if err != nil {
		return nil // judged in resolveIdentity
	}
	if version != formatVersion {
		return fmt.Errorf("%w: log has version %d, this software reads %d", ErrVersion, version, formatVersion)
	}
	s.identity, s.idOK = id, true
	for i := 1; i <= 2 && len(b) >= i*headMarkStride; i++ {
		if m, err := decodeHeadMark(b[i*headMarkStride:], id.logID); err == nil && m.sequence > s.head.sequence {
			s.head = m
		}
	}
	return nil
}

func (s *survey) readHeader(f *segmentFile) (err error) {
	path := s.fs.PathJoin(s.dir, f.name)
	if s.keep {
		f.file, err = s.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	} else {
		f.file, err = s.fs.Open(path)
	}
	if err != nil {
		return fmt.Errorf("wal: open segment: %w", err)
	}
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("wal: stat segment: %w", err)
	}
	f.size = info.Size()
	var page [dataStart]byte
	if n, err := f.file.ReadAt(page[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("wal: read header of %s: %w", f.name, err)
	} else if n < len(page) {
		clear(page[n:])
	}
	var copies [2]segmentHeader
	var valid [2]bool
	for i, off := range []int{0, headerCopy} {
		h, err := decodeSegmentHeader(page[off:])
		if errors.Is(err, ErrVersion) {
			return fmt.Errorf("%w: segment %s", err, f.name)
		}
		copies[i], valid[i] = h, err == nil
	}
	f.chooseHeader(copies, valid, s)
	return nil
}

// chooseHeader prefers a copy that belongs into this file; a valid copy that
// says something else is then a bad copy like any other.
func (f *segmentFile) chooseHeader(copies [2]segmentHeader, valid [2]bool, s *survey) {
	fits := func(h *segmentHeader) bool {
		return h.id == f.id && (!s.idOK || h.logID == s.identity.logID)
	}
	best := -1
	for i := range copies {
		if valid[i] && (best < 0 || fits(&copies[i]) && !fits(&copies[best])) {
			best = i
		}
	}
	if best < 0 {
		return
	}
	f.header = copies[best]
	for i := range copies {
		f.copies[i] = valid[i] && copies[i] == f.header
	}
}

func readFile(fs vfs.FS, path string, limit int) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	b := make([]byte, limit)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("wal: read %s: %w", path, err)
	}
	return b[:n], nil
}

// resolve finds out which segments form the log and checks names and sizes.
func (s *survey) resolve() {
	s.resolveIdentity()
	newest := -1
	for i, f := range s.files {
		if f.hasHeader() {
			newest = i
		}
	}
	if newest < 0 {
		if len(s.files) > 0 && s.files[0].id == 1 {
			s.next = s.files[0]
		}
		return
	}
	if s.dropStray(newest) {
		newest--
	}
	low := newest
	for low > 0 && s.files[low-1].id+1 == s.files[low].id {
		low--
	}
	s.used = s.files[low : newest+1]
	if newest+1 < len(s.files) && s.files[newest+1].id == s.files[newest].id+1 {
		s.next = s.files[newest+1]
	}
}

// dropStray takes the header out of account that a torn activation, or a write
// that went astray, left in a file that was never in use: an old one, of an
// earlier segment of this log (row 22). A segment in use is named by a synced
// head mark before anything in it is acknowledged, so a head mark of an earlier
// segment tells this from a file that was exchanged. Without one it does not
// decide.
func (s *survey) dropStray(newest int) bool {
	f := s.files[newest]
	h := f.header
	if h.logID != s.identity.logID || h.id >= f.id || s.head.number == 0 || s.head.segment >= f.id {
		return false
	}
	if newest == 0 || s.files[newest-1].id+1 != f.id {
		return false
	}
	f.stray = &h
	f.header, f.copies = segmentHeader{}, [2]bool{}
	return true
}

// resolveIdentity falls back to the segment headers, which all carry the
// log's id, when LOG is missing or damaged.
func (s *survey) resolveIdentity() {
	if s.idOK || len(s.files) == 0 {
		return
	}
	for _, f := range s.files {
		if !f.hasHeader() {
			continue
		}
		s.identity = identity{
			logID: f.header.logID, flags: f.header.flags, segmentSize: f.header.segmentSize,
			createdMs: f.header.createdMs, keyCheck: f.header.keyCheck,
		}
		s.add(Finding{
			Kind: KindBadIdentity, Severity: SeverityRepaired, File: identityName,
			Message: "the identity file is missing or damaged; every segment carries the same facts", Advice: adviceRepair,
		})
		return
	}
}

// checkFiles compares headers with the files they are in (rows 11 to 14).
func (s *survey) checkFiles(live []*segmentFile) {
	for _, f := range live {
		h := &f.header
		switch {
		case !f.hasHeader():
			s.add(Finding{
				Kind: KindBadHeader, Severity: SeverityDamage, Segment: f.id, File: f.name, Length: dataStart,
				Message: fmt.Sprintf("both copies of the header of segment %d are destroyed", f.id), Advice: adviceDamage,
			})
			continue
		case h.logID != s.identity.logID || h.id != f.id:
			s.add(Finding{
				Kind: KindMisplaced, Severity: SeverityDamage, Segment: f.id, File: f.name,
				Message: fmt.Sprintf("the file holds segment %d of log %x, not segment %d of log %x", h.id, h.logID, f.id, s.identity.logID),
				Advice:  adviceFile,
			})
		case f.size != h.segmentSize:
			s.add(Finding{
				Kind: KindWrongSize, Severity: SeverityDamage, Segment: f.id, File: f.name, Offset: f.size, FirstIndex: h.firstIndex,
				Message: fmt.Sprintf("the file has %d bytes, a segment has %d; segments never change size", f.size, h.segmentSize),
				Advice:  adviceDamage,
			})
		}
		for i, ok := range f.copies {
			if !ok {
				s.add(Finding{
					Kind: KindHeaderCopy, Severity: SeverityRepaired, Segment: f.id, File: f.name, Offset: int64(i * headerCopy), Length: headerSize,
					Message: fmt.Sprintf("header copy %d of segment %d is damaged; the other copy is intact", i+1, f.id), Advice: adviceRepair,
				})
			}
		}
	}
}

// openKeys derives the segment keys, or reports why the log cannot be opened.
func (s *survey) openKeys() error {
	if s.identity.segmentSize == 0 {
		return nil // neither LOG nor any segment says what this log is: judge refuses it
	}
	encrypted := s.identity.flags&flagEncrypted != 0
	switch {
	case !encrypted && s.key != nil:
		return fmt.Errorf("%w: the log is not encrypted", ErrWrongKey)
	case encrypted && s.key == nil:
		return ErrKeyRequired
	case !encrypted:
		return nil
	}
	if keyCheck(s.key, s.identity.logID) != s.identity.keyCheck {
		return ErrWrongKey
	}
	for _, f := range s.used {
		aead, err := segmentCipher(s.key, &f.header)
		if err != nil {
			return err
		}
		f.aead = aead
	}
	return nil
}

// scanAll verifies the used segments, two at a time.
func (s *survey) scanAll(parallel int) error {
	errs := make([]error, len(s.used))
	gate := make(chan struct{}, max(1, parallel))
	var wg sync.WaitGroup
	for i, f := range s.used {
		if !f.placed(s) {
			continue
		}
		gate <- struct{}{}
		wg.Add(1)
		go func() {
			defer func() { <-gate; wg.Done() }()
			errs[i] = f.scan(s.failed)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// scan verifies the segment's batches from the first to the first invalid
// one and looks at what stands there. Batches from number failed on count as
// invalid; 0: none.
func (f *segmentFile) scan(failed uint64) error {
	sc := newScanner(f.file, f.size, f.header, f.aead)
	sc.failed = failed
	f.seed, f.first = sc.seed, sc.pos
	for {
		b, err := sc.next()
		var stop *badBatch
		if errors.As(err, &stop) {
			f.stop = stop
			break
		}
		if err != nil {
			return err
		}
		f.note(&b)
	}
	f.end = sc.pos
	var err error
	if f.tail, f.proof, err = sc.classifyTail(); err != nil {
		return err
	}
	if f.footer, err = sc.footer(); err != nil {
		return err
	}
	return f.checkFooter()
}

// note collects what the running log needs to know of a verified batch.
func (f *segmentFile) note(b *scannedBatch) {
	f.batches = append(f.batches, batchRef{uint32(b.offset), uint32(len(b.raw)), b.trailer.firstIndex})
	f.entries += b.trailer.lastIndex + 1 - b.trailer.firstIndex
	f.records += uint64(b.header.count)
	if b.header.flags&flagEncrypted == 0 {
		f.offsets = append(f.offsets, b.offsets...)
	}
	for _, c := range b.controls {
		f.controls = append(f.controls, controlEvent{c.op, slices.Clone(c.data)})
	}
}

// checkFooter compares the footer with the batches it describes.
func (f *segmentFile) checkFooter() error {
	if f.footer == nil || f.footer.chain != f.end.chain || f.footer.lastBatch+1 != f.end.number ||
		f.footer.lastIndex+1 != f.end.nextIndex || f.footer.tail != uint64(f.end.offset) {
		return nil
	}
	batches, offsets, err := readFooterBody(f.file, f.footer, f.header.segmentSize)
	if err != nil {
		if errors.Is(err, errFormat) {
			return nil
		}
		return err
	}
	f.footerOK = slices.Equal(batches, f.batches) && (slices.Equal(offsets, f.offsets) || f.offsets == nil)
	return nil
}

// replayControls finds the log's start and meta values.
func (s *survey) replayControls() {
	s.metas = map[string][]byte{}
	for _, f := range s.used {
		for _, c := range f.controls {
			if err := s.applyControl(c); err != nil {
				s.add(Finding{
					Kind: KindBadBatch, Severity: SeverityDamage, Segment: f.id, File: f.name, Offset: dataStart,
					Message: "a control record is valid but makes no sense", Advice: adviceDamage,
				})
			}
		}
	}
}

func (s *survey) applyControl(c controlEvent) (err error) {
	switch c.op {
	case controlStart:
		start, err := decodeLogStart(c.data)
		if err == nil && start.index > s.start.index {
			s.start = start
		}
		return err
	case controlState:
		if s.start, err = decodeLogStart(c.data); err != nil {
			return err
		}
		s.metas = map[string][]byte{}
		for rest := c.data[16:]; len(rest) > 0; {
			if rest, err = s.applyMeta(rest); err != nil {
				return err
			}
		}
	case controlMeta:
		_, err = s.applyMeta(c.data)
	case controlNext:
		if len(c.data) != 8 {
			return errFormat
		}
		// Entries from this index on were taken back; a start beyond the log
		// follows the jump.
		if next := binary.LittleEndian.Uint64(c.data); next < s.start.index {
			s.start.index = next
		}
	default:
		return errFormat
	}
	return err
}

func (s *survey) applyMeta(b []byte) (rest []byte, err error) {
	key, value, rest, err := decodeMeta(b)
	if err != nil {
		return nil, err
	}
	if value == nil {
		delete(s.metas, key)
	} else {
		s.metas[key] = value
	}
	return rest, nil
}

func (s *survey) close() {
	for _, f := range s.files {
		f.close()
	}
}

func (f *segmentFile) close() {
	if f.file != nil {
		_ = f.file.Close()
		f.file = nil
	}
}
