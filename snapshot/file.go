package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sort"
)

// File is a snapshot that can be read at any place, for tools that look at single tables or keys. What it returns
// was verified block by block; that the whole file is sound only a full Reader pass says. Not for concurrent use.
type File struct {
	r      io.ReaderAt
	size   int64
	head   [32]byte
	header Header
	footer Footer
}

// Open reads header, tail and footer of a snapshot of size bytes.
func Open(r io.ReaderAt, size int64) (*File, error) {
	sr, err := NewReader(io.NewSectionReader(r, 0, size), ReaderOptions{})
	if err != nil {
		return nil, err
	}
	f := &File{r: r, size: size, head: sr.head, header: sr.header}
	var tail [tailSize]byte
	if size < sr.offset+frameSize+tailSize {
		return nil, &CorruptError{Offset: size, Reason: "the file ends early"}
	}
	if err := f.readAt(tail[:], size-tailSize); err != nil {
		return nil, err
	}
	at := le.Uint64(tail[:])
	if string(tail[8:]) != magicTail || at < uint64(sr.offset) || at > uint64(size-tailSize-frameSize) {
		return nil, &CorruptError{Offset: size - tailSize, Reason: "no valid tail: the file is cut short or damaged"}
	}
	_, raw, err := f.element(int64(at), kindFooter)
	if err != nil {
		return nil, err
	}
	var reason string
	if f.footer, reason = decodeFooter(raw); reason != "" {
		return nil, &CorruptError{Offset: int64(at), Reason: reason}
	}
	return f, nil
}

// Header is the verified header.
func (f *File) Header() Header { return f.header }

// Footer is the verified footer.
func (f *File) Footer() Footer { return f.footer }

func (f *File) readAt(b []byte, at int64) error {
	n, err := f.r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return readErr(err, 0, at)
}

// element reads and verifies the element at an offset.
func (f *File) element(at int64, kind byte) (frame, []byte, error) {
	var b [frameSize]byte
	if at < 0 || at > f.size-frameSize {
		return frame{}, nil, &CorruptError{Offset: at, Reason: "element outside the file"}
	}
	if err := f.readAt(b[:], at); err != nil {
		return frame{}, nil, err
	}
	fr, reason := decodeFrame(b[:])
	switch {
	case reason != "":
	case fr.kind != kind:
		reason = fmt.Sprintf("kind 0x%02x instead of 0x%02x", fr.kind, kind)
	case int64(fr.stored) > f.size-at-frameSize:
		reason = "reaches beyond the file"
	}
	if reason != "" {
		return fr, nil, &CorruptError{Element: int64(fr.number), Offset: at, Reason: reason}
	}
	stored := make([]byte, fr.stored)
	if err := f.readAt(stored, at+frameSize); err != nil {
		return fr, nil, err
	}
	raw, err := fr.open(&f.head, b[:24], stored)
	var c *CorruptError
	if errors.As(err, &c) {
		err = &CorruptError{Element: int64(fr.number), Offset: at, Reason: c.Reason}
	}
	return fr, raw, err
}

// pageItem locates a block.
type pageItem struct {
	offset uint64
	rows   uint64
	table  string
	key    []byte
}

func decodePage(raw []byte, items int) ([]pageItem, error) {
	d := decoder{b: raw}
	if items > len(raw)/4 {
		return nil, &CorruptError{Reason: "index page with an impossible count"}
	}
	out := make([]pageItem, 0, items)
	for range items {
		i := pageItem{offset: d.uvarint(), rows: d.uvarint(), table: string(d.bytes(maxName)), key: d.bytes(MaxKey)}
		if n := len(out); n > 0 && Compare(out[n-1].table, out[n-1].key, i.table, i.key) >= 0 {
			d.fail("blocks out of order")
		}
		out = append(out, i)
	}
	if d.reason == "" && len(d.b) != 0 {
		d.fail("bytes after the end")
	}
	if d.reason != "" {
		return nil, &CorruptError{Reason: "index page: " + d.reason}
	}
	return out, nil
}

func (f *File) page(n int) ([]pageItem, error) {
	fr, raw, err := f.element(int64(f.footer.pages[n]), kindIndex)
	if err != nil {
		return nil, err
	}
	return decodePage(raw, int(fr.items))
}

// Scan calls fn for the rows of a table with key >= from, ascending, until fn returns false. table "" scans all
// tables from the beginning. The entry is valid during fn only.
func (f *File) Scan(table string, from []byte, fn func(*Entry) bool) error {
	if len(f.footer.pages) == 0 {
		return nil
	}
	n, err := f.seekPage(table, from)
	for ; err == nil && n < len(f.footer.pages); n++ {
		var items []pageItem
		if items, err = f.page(n); err != nil {
			return err
		}
		at := max(0, sort.Search(len(items), func(i int) bool { return Compare(items[i].table, items[i].key, table, from) > 0 })-1)
		for _, it := range items[at:] {
			if table != "" && it.table > table {
				return nil
			}
			more, err := f.scanBlock(it, table, from, fn)
			if err != nil || !more {
				return err
			}
		}
	}
	return err
}

// seekPage finds the last page that begins at or before a row.
func (f *File) seekPage(table string, from []byte) (int, error) {
	lo, hi := 0, len(f.footer.pages)-1
	for lo < hi {
		mid := (lo + hi + 1) / 2
		items, err := f.page(mid)
		if err != nil {
			return 0, err
		}
		if len(items) > 0 && Compare(items[0].table, items[0].key, table, from) <= 0 {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo, nil
}

func (f *File) scanBlock(it pageItem, table string, from []byte, fn func(*Entry) bool) (more bool, err error) {
	if it.offset > uint64(f.size) {
		return false, &CorruptError{Offset: f.size, Reason: "index points outside the file"}
	}
	fr, raw, err := f.element(int64(it.offset), kindBlock)
	if err != nil {
		return false, err
	}
	c := NewCursor(raw)
	for {
		e, err := c.Next()
		if err != nil {
			return false, &CorruptError{Element: int64(fr.number), Offset: int64(it.offset), Reason: err.Error()}
		}
		switch {
		case e == nil:
			return true, nil
		case table != "" && e.Table > table:
			return false, nil
		case table != "" && (e.Table < table || bytes.Compare(e.Key, from) < 0):
			continue
		}
		if !fn(e) {
			return false, nil
		}
	}
}
