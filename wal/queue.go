package wal

import (
	"fmt"
	"sync"
)

// A Completion hears when an asynchronous append is on disk, or why it will
// never be. Complete is called exactly once, from the committer goroutine, in
// log order. It must not block and must not call the Log.
type Completion interface {
	Complete(first, last uint64, err error)
}

// A request is one append, or one control record, with its place in the log,
// waiting for the committer. Pooled.
type request struct {
	one         [1]Entry // room for the common case
	many        []Entry
	entries     []Entry
	control     byte // not 0: a control record with data
	data        []byte
	size        int // encoded
	first, last uint64
	c           Completion
}

var requests = sync.Pool{New: func() any { return new(request) }}

func newRequest(entries []Entry, size int, c Completion) *request {
	r := requests.Get().(*request)
	if len(entries) == 1 {
		r.one[0] = entries[0]
		r.entries = r.one[:]
	} else {
		r.many = append(r.many[:0], entries...)
		r.entries = r.many
	}
	r.size, r.c = size, c
	return r
}

// finish tells the owner and gives the request back.
func (r *request) finish(err error) {
	r.c.Complete(r.first, r.last, err)
	clear(r.many)
	*r = request{many: r.many[:0]}
	requests.Put(r)
}

// syncWaiter turns the asynchronous append into Append. Pooled.
type syncWaiter struct {
	last uint64
	err  error
	done chan struct{}
}

func (w *syncWaiter) Complete(_, last uint64, err error) {
	w.last, w.err = last, err
	w.done <- struct{}{}
}

var waiters = sync.Pool{New: func() any { return &syncWaiter{done: make(chan struct{}, 1)} }}

// Append writes entries as one unit and returns the last one's index when all
// are on disk. Concurrent calls share one fdatasync.
//
// Errors: ErrNoSpace (nothing was written, retry later), ErrFailed (outcome
// unknown, the log is dead), ErrTooLarge, ErrIndexGap, ErrInvalid, ErrClosed.
func (l *Log) Append(entries ...Entry) (last uint64, err error) {
	w := waiters.Get().(*syncWaiter)
	if _, _, err := l.AppendAsync(entries, w); err != nil {
		waiters.Put(w)
		return 0, err
	}
	<-w.done
	last, err = w.last, w.err
	waiters.Put(w)
	return last, err
}

// AppendAsync gives entries their place in the log and returns it; c hears
// when they are on disk. The slice may be reused at once, the entries' Data
// only when c was called. It waits while MaxBatchBytes are queued, which
// bounds memory. On error nothing was placed and c is not called.
func (l *Log) AppendAsync(entries []Entry, c Completion) (first, last uint64, err error) {
	size, err := l.checkEntries(entries)
	if err != nil {
		return 0, 0, err
	}
	r := newRequest(entries, size, c)
	if err := l.waitForRoom(entries[0].Index); err != nil {
		return 0, 0, err
	}
	for i := range entries {
		if x := entries[i].Index; x != 0 && x != l.nextIndex+uint64(i) {
			want := l.nextIndex + uint64(i)
			l.mu.Unlock()
			return 0, 0, fmt.Errorf("%w: got %d, want %d", ErrIndexGap, x, want)
		}
	}
	first, last = l.nextIndex, l.nextIndex+uint64(len(entries))-1
	l.enqueue(r, last)
	return first, last, nil
}

// enqueue places the request and unlocks mu.
func (l *Log) enqueue(r *request, last uint64) {
	r.first, r.last = l.nextIndex, last
	l.nextIndex = last + 1
	l.queue = append(l.queue, r)
	l.queued += r.size
	if !l.flying || l.queued >= gatherBytes {
		l.work.Signal()
	}
	l.mu.Unlock()
}

// gatherBytes must wait before the committer is woken to encode while a batch
// is in fdatasync; less is encoded when that returns.
const gatherBytes = 32 << 10

func (l *Log) checkEntries(entries []Entry) (size int, err error) {
	if len(entries) == 0 {
		return 0, fmt.Errorf("%w: no entries", ErrInvalid)
	}
	data := 0
	for i := range entries {
		e := &entries[i]
		if e.Type == 0 || e.Term > maxTerm {
			return 0, fmt.Errorf("%w: entry type must not be 0 and term must be below 2^56", ErrInvalid)
		}
		data += len(e.Data)
		size += recordSpan(len(e.Data))
	}
	if data > l.o.MaxEntryBytes || int64(size) > l.o.SegmentSize/2 {
		return 0, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, data, l.o.MaxEntryBytes)
	}
	return size, nil
}

// waitForRoom locks mu and returns with it held when the queue has room and
// nobody has borrowed the tail. On error mu is not held. An explicit index
// that does not follow is the start of an empty log; the queue must be at
// rest to tell.
func (l *Log) waitForRoom(index uint64) error {
	l.mu.Lock()
	for {
		if err := l.refusal(); err != nil {
			l.mu.Unlock()
			return err
		}
		jump := index != 0 && index != l.nextIndex && l.isEmpty()
		switch {
		case l.exclusive || l.queued >= l.o.MaxBatchBytes || jump && !l.atRest():
			l.room.Wait()
		case jump:
			l.mu.Unlock()
			if err := l.jumpTo(index); err != nil {
				return err
			}
			l.mu.Lock()
		default:
			return nil
		}
	}
}

// atRest: nothing is queued or on its way to disk. Called with mu held.
func (l *Log) atRest() bool { return !l.busy && len(l.queue) == 0 }

func (l *Log) isEmpty() bool {
	l.idx.RLock()
	defer l.idx.RUnlock()
	return l.last < l.start.index
}

// refusal says why nothing can be appended. Called with mu held.
func (l *Log) refusal() error {
	if l.closing {
		return ErrClosed
	}
	return l.Err()
}

// appendControl places a control record and waits until it is on disk.
func (l *Log) appendControl(op byte, data []byte) error {
	if err := l.waitForRoom(0); err != nil {
		return err
	}
	w := &syncWaiter{done: make(chan struct{}, 1)}
	r := requests.Get().(*request)
	r.control, r.data, r.size, r.c = op, data, recordSpan(len(data)), w
	l.enqueue(r, l.nextIndex-1)
	<-w.done
	return w.err
}
