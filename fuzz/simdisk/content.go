package simdisk

import "bytes"

const (
	pageSize   = 4096
	sectorSize = 512 // the unit a disk writes atomically in this model
)

// SectorSize is the unit, in bytes, in which unsynced writes tear.
const SectorSize = sectorSize

// owner marks the content that may change a page in place. It has a size so
// that two owners never share an address.
type owner struct{ _ byte }

// page is 4 KiB of file data. It may be changed in place only by the content
// whose owner it carries; everybody else copies it first.
type page struct {
	owner *owner
	data  [pageSize]byte
}

// content is the bytes of a file, copy on write. A nil page is all zero.
// Not safe for concurrent use; its owner serialises access. Pages that were
// shared by clone are never changed again, so two contents may be used from
// two goroutines even if they share pages.
type content struct {
	size  int64
	owner *owner
	pages []*page
}

// clone returns a copy that shares all pages. Both sides copy a page before
// they change it from now on.
func (c *content) clone() content {
	c.owner = nil
	return content{size: c.size, pages: append([]*page(nil), c.pages...)}
}

// setSize grows or shrinks the file. Bytes past the old end read as zero.
func (c *content) setSize(size int64) {
	if size < c.size {
		// The tail of the last page must read as zero when the file grows again.
		end := (size + pageSize - 1) / pageSize * pageSize
		if end > c.size {
			end = c.size
		}
		if end > size {
			c.writeAt(nil, end-size, size)
		}
	}
	n := int((size + pageSize - 1) / pageSize)
	for len(c.pages) < n {
		c.pages = append(c.pages, nil)
	}
	for i := n; i < len(c.pages); i++ {
		c.pages[i] = nil
	}
	c.pages = c.pages[:n]
	c.size = size
}

// writeAt stores n bytes at off; a nil p stores zeros. The file grows as needed.
func (c *content) writeAt(p []byte, n, off int64) {
	if n == 0 {
		return
	}
	if off+n > c.size {
		c.setSize(off + n)
	}
	for done := int64(0); done < n; {
		at := off + done
		in := at % pageSize
		step := min(n-done, pageSize-in)
		switch {
		case p == nil && step == pageSize:
			c.pages[at/pageSize] = nil
		case p == nil && c.pages[at/pageSize] == nil:
		case p == nil:
			clear(c.own(at / pageSize).data[in : in+step])
		default:
			copy(c.own(at / pageSize).data[in:in+step], p[done:done+step])
		}
		done += step
	}
}

// own returns page i, private to c.
func (c *content) own(i int64) *page {
	if c.owner == nil {
		c.owner = new(owner)
	}
	old := c.pages[i]
	if old != nil && old.owner == c.owner {
		return old
	}
	fresh := &page{owner: c.owner}
	if old != nil {
		fresh.data = old.data
	}
	c.pages[i] = fresh
	return fresh
}

// readAt fills p from off and returns how many bytes the file had there.
func (c *content) readAt(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	n := min(int64(len(p)), c.size-off)
	for done := int64(0); done < n; {
		at := off + done
		in := at % pageSize
		step := min(n-done, pageSize-in)
		if pg := c.pages[at/pageSize]; pg != nil {
			copy(p[done:done+step], pg.data[in:in+step])
		} else {
			clear(p[done : done+step])
		}
		done += step
	}
	return int(n)
}

// bytes returns a copy of the whole file.
func (c *content) bytes() []byte {
	p := make([]byte, c.size)
	c.readAt(p, 0)
	return p
}

var zeroPage [pageSize]byte

// allZero reports whether p holds only zeros.
func allZero(p []byte) bool {
	for len(p) > pageSize {
		if !bytes.Equal(p[:pageSize], zeroPage[:]) {
			return false
		}
		p = p[pageSize:]
	}
	return bytes.Equal(p, zeroPage[:len(p)])
}
