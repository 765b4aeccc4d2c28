package logs

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	rawSegment = 64 << 20
	rawBlock   = 512 // groups start on this border, as the WAL's batches do
	rawHeader  = 8   // length and a constant, so that a length of zero is not the end
	rawAhead   = 2   // segments zeroed in advance
	rawMark    = 0x77617221
)

// raw is the baseline. Its segments are full of written zeroes, so fdatasync has
// no metadata to write; a group is one pwrite and one fdatasync.
type raw struct {
	dir   string
	queue *Group[[]byte]
	file  *os.File
	off   int64
	size  int64
	wrap  bool          // write file again from its start when it is full
	ready chan *rawFile // segments zeroed in advance; nil when wrap
	stop  chan struct{} // ends the zeroing
	batch []byte        // AppendBatch's buffer
}

type rawFile struct {
	f   *os.File
	err error
}

func openRaw(dir string, o Options) (Log, error) { return newRaw(dir, o, true) }

func openRawSegments(dir string, o Options) (Log, error) { return newRaw(dir, o, false) }

func newRaw(dir string, o Options, wrap bool) (Log, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &raw{dir: dir, wrap: wrap, size: rawSegment, stop: make(chan struct{})}
	if o.SegmentSize > 0 {
		r.size = int64(o.SegmentSize)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.raw"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 { // an existing log is only read
		if r.file, err = r.zeroed(0); err != nil {
			return nil, err
		}
		if !wrap {
			r.ready = make(chan *rawFile, rawAhead)
			go r.zeroAhead()
		}
	}
	r.queue = NewGroup(rawJoin, r.commit, func(b *[]byte) { *b = (*b)[:0] })
	return r, nil
}

func rawJoin(into *[]byte, data []byte) {
	b := binary.LittleEndian.AppendUint32(*into, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, rawMark)
	*into = append(b, data...)
}

func (r *raw) Append(data []byte) error { return r.queue.Append(data) }

func (r *raw) AppendBatch(data [][]byte) error {
	r.batch = r.batch[:0]
	for _, d := range data {
		rawJoin(&r.batch, d)
	}
	return r.commit(r.batch)
}

func (r *raw) commit(b []byte) error {
	pad := -len(b) & (rawBlock - 1)
	b = append(b, make([]byte, pad)...)
	if r.off+int64(len(b)) > r.size {
		if err := r.next(); err != nil {
			return err
		}
	}
	if _, err := r.file.WriteAt(b, r.off); err != nil {
		return err
	}
	r.off += int64(len(b))
	return unix.Fdatasync(int(r.file.Fd()))
}

func (r *raw) next() error {
	r.off = 0
	if r.wrap {
		return nil
	}
	if err := r.file.Close(); err != nil {
		return err
	}
	n := <-r.ready
	r.file = n.f
	return n.err
}

func (r *raw) zeroAhead() {
	defer close(r.ready)
	for i := 1; ; i++ {
		f, err := r.zeroed(i)
		select {
		case r.ready <- &rawFile{f, err}:
			if err != nil {
				return
			}
		case <-r.stop:
			if f != nil {
				_ = f.Close()
			}
			return
		}
	}
}

// zeroed makes segment i, written and synced.
func (r *raw) zeroed(i int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.dir, fmt.Sprintf("%08d.raw", i)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	zeroes := make([]byte, 1<<20)
	for left := r.size; left > 0; left -= int64(len(zeroes)) {
		if _, err := f.Write(zeroes[:min(left, int64(len(zeroes)))]); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return f, f.Sync()
}

func (r *raw) Replay(fn func(data []byte) error) error {
	names, err := filepath.Glob(filepath.Join(r.dir, "*.raw"))
	if err != nil {
		return err
	}
	buf := make([]byte, r.size)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		n, err := io.ReadFull(f, buf)
		_ = f.Close() // read only
		if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
			return err
		}
		if err := rawWalk(buf[:n], fn); err != nil {
			return err
		}
	}
	return nil
}

// rawWalk calls fn for every record up to the first block border at which none
// starts.
func rawWalk(b []byte, fn func([]byte) error) error {
	for off := 0; off+rawHeader <= len(b); {
		if binary.LittleEndian.Uint32(b[off+4:]) != rawMark {
			if off%rawBlock == 0 {
				return nil
			}
			off = (off + rawBlock - 1) &^ (rawBlock - 1) // the padding of a group
			continue
		}
		n := int(binary.LittleEndian.Uint32(b[off:]))
		if n > len(b)-off-rawHeader {
			return nil
		}
		if err := fn(b[off+rawHeader : off+rawHeader+n]); err != nil {
			return err
		}
		off += rawHeader + n
	}
	return nil
}

func (r *raw) Close() error {
	r.queue.Close()
	close(r.stop)
	if r.ready != nil {
		for n := range r.ready {
			if n.f != nil {
				_ = n.f.Close() // never written
			}
		}
	}
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
