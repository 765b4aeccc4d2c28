package logs

import (
	"sync"
	"sync/atomic"

	"github.com/erlmcp/erlmcp/wal"
)

// entryType is any type the log's owner may choose.
const entryType = 1

// ours is the product's log with its default settings.
type ours struct {
	log     *wal.Log
	segment int64
	batch   []wal.Entry

	trim    chan struct{} // asks the trimmer to give up old entries; nil: never
	done    sync.WaitGroup
	written atomic.Int64
	trimErr error // the trimmer's, read after it has ended
}

func openOurs(dir string, o Options) (Log, error) {
	w, err := newOurs(dir, o)
	if err != nil {
		return nil, err
	}
	w.trim = make(chan struct{}, 1)
	w.done.Go(w.trimmer)
	return w, nil
}

func openOursGrowing(dir string, o Options) (Log, error) {
	return newOurs(dir, o)
}

func newOurs(dir string, o Options) (*ours, error) {
	l, err := wal.Open(dir, wal.Options{SegmentSize: int64(o.SegmentSize)})
	if err != nil {
		return nil, err
	}
	w := &ours{log: l, segment: 64 << 20}
	if o.SegmentSize > 0 {
		w.segment = int64(o.SegmentSize)
	}
	return w, nil
}

func (w *ours) Append(data []byte) error {
	_, err := w.log.Append(wal.Entry{Type: entryType, Data: data})
	if w.trim != nil && w.written.Add(int64(len(data))) > w.segment {
		w.written.Store(0)
		select {
		case w.trim <- struct{}{}:
		default: // it is at it
		}
	}
	return err
}

// Prepare brings the log to the state it is in after its first minutes: segments
// have been filled and given up, so the next ones are recycled. Raw's file is
// zeroed before it is measured for the same reason.
func (w *ours) Prepare() error {
	if w.trim == nil {
		return nil
	}
	const filled = 4 // active, prepared and the spares the log keeps
	chunk := make([]byte, w.segment/64)
	for range filled {
		last := w.log.LastIndex()
		for range 64 {
			if err := w.AppendBatch([][]byte{chunk}); err != nil {
				return err
			}
		}
		if err := w.log.TruncateFront(last + 1); err != nil {
			return err
		}
	}
	return nil
}

// trimmer gives up everything but the newest segment's worth whenever another
// segment was filled, as the store above the log does when it has flushed.
func (w *ours) trimmer() {
	var keep uint64 // the newest entry when the segment before was full
	for range w.trim {
		last := w.log.LastIndex()
		if keep > 0 {
			if err := w.log.TruncateFront(keep); err != nil {
				w.trimErr = err
				return
			}
		}
		keep = last
	}
}

func (w *ours) AppendBatch(data [][]byte) error {
	w.batch = w.batch[:0]
	for _, d := range data {
		w.batch = append(w.batch, wal.Entry{Type: entryType, Data: d})
	}
	_, err := w.log.Append(w.batch...)
	return err
}

func (w *ours) Replay(fn func(data []byte) error) error {
	return w.log.Iterate(0, func(e wal.Entry) error { return fn(e.Data) })
}

// PerSync is the mean number of entries which shared an fdatasync.
func (w *ours) PerSync() float64 {
	s := w.log.Stats()
	if s.Batches == 0 {
		return 0
	}
	return float64(s.Appends) / float64(s.Batches)
}

func (w *ours) Close() error {
	if w.trim != nil {
		close(w.trim)
		w.done.Wait()
	}
	if err := w.log.Close(); err != nil {
		return err
	}
	return w.trimErr
}
