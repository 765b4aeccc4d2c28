package replication

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
)

// A forwarding stream carries write sets and read requests from a member to the leader. Frames, integers big-endian:
//
//	length u32 | kind u8 | id u64 | payload        length counts from kind on
//
//	to the leader    hello    id = protocol version 1; payload: boot (16) | name of the member
//	                 propose  id = serial of the sending in this boot, ascending; payload: the write set
//	                 read     id = number of the request
//	from the leader  welcome  id = term of the stream; payload: newest serial received from this boot in this term, u64
//	                 refuse   id = serial of a write set that was certainly not written; payload: code u8 | text
//	                 index    id = number of a read request, or 0: nobody asked; payload: index u64, committed in the term
//	                          of the stream or before
//	                 fail     id = number of a read request; payload: code u8 | text
//	                 reject   the leader does not serve the stream, for instance because it does not lead; payload: text
//
// A write set that is committed is not answered: the member finds it in its own log. But an index frame that nobody asked for
// tells it that it is there (based.go); of several the newest is sent.
const (
	frameHello byte = iota + 1
	framePropose
	frameRead
	frameWelcome
	frameRefuse
	frameIndex
	frameFail
	frameReject

	frameHeader     = 13
	maxFrame        = 64 << 20 // the log's largest entry is 32 MiB
	forwardVersion  = 1
	bootBytes       = 16
	maxFrameSilence = 10 * time.Second // a peer that takes no bytes for this long is given up
)

// What a refusal means to the member that forwarded.
const (
	refusedNotLeader byte = iota + 1
	refusedOverloaded
	refusedNoSpace
	refusedTooLarge
	refusedOther
)

func refusalCode(err error) byte {
	switch {
	case errors.Is(err, ErrNotLeader):
		return refusedNotLeader
	case errors.Is(err, engine.ErrOverloaded):
		return refusedOverloaded
	case errors.Is(err, engine.ErrNoSpace), errors.Is(err, wal.ErrNoSpace):
		return refusedNoSpace
	case errors.Is(err, engine.ErrTooLarge), errors.Is(err, wal.ErrTooLarge):
		return refusedTooLarge
	}
	return refusedOther
}

// refusal is the inverse of refusalCode; payload is code and text.
func refusal(payload []byte) error {
	if len(payload) == 0 {
		return fmt.Errorf("%w: refusal without a code", errFormat)
	}
	text := string(payload[1:])
	switch payload[0] {
	case refusedNotLeader:
		return fmt.Errorf("%w: %s", ErrNotLeader, text)
	case refusedOverloaded:
		return fmt.Errorf("%w: on the leader: %s", engine.ErrOverloaded, text)
	case refusedNoSpace:
		return fmt.Errorf("%w: on the leader: %s", engine.ErrNoSpace, text)
	case refusedTooLarge:
		return fmt.Errorf("%w: on the leader: %s", engine.ErrTooLarge, text)
	}
	return fmt.Errorf("replication: refused by the leader: %s", text)
}

type frame struct {
	kind    byte
	id      uint64
	payload []byte
}

// frames is one end of a stream. read belongs to one goroutine; write is safe for concurrent use and gathers frames
// until nobody else is about to write.
type frames struct {
	conn net.Conn
	r    *bufio.Reader

	mu      sync.Mutex
	w       *bufio.Writer
	writers int // waiting for mu or holding it
	count   sync.Mutex
	err     error
}

func newFrames(c net.Conn) *frames {
	return &frames{conn: c, r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 64<<10)}
}

func (f *frames) read() (x frame, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return x, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameHeader-4 || n > maxFrame {
		return x, fmt.Errorf("%w: frame of %d bytes", errFormat, n)
	}
	x.kind, x.id = head[4], binary.BigEndian.Uint64(head[5:])
	x.payload = make([]byte, n-(frameHeader-4))
	_, err = io.ReadFull(f.r, x.payload)
	return x, err
}

func (f *frames) write(kind byte, id uint64, parts ...[]byte) error {
	f.count.Lock()
	f.writers++
	f.count.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count.Lock()
	f.writers--
	last := f.writers == 0
	f.count.Unlock()
	if f.err != nil {
		return f.err
	}
	var head [frameHeader]byte
	n := frameHeader - 4
	for _, p := range parts {
		n += len(p)
	}
	binary.BigEndian.PutUint32(head[:], uint32(n))
	head[4] = kind
	binary.BigEndian.PutUint64(head[5:], id)
	f.err = f.conn.SetWriteDeadline(time.Now().Add(maxFrameSilence))
	for i := -1; i < len(parts) && f.err == nil; i++ {
		b := head[:]
		if i >= 0 {
			b = parts[i]
		}
		_, f.err = f.w.Write(b)
	}
	if f.err == nil && last {
		f.err = f.w.Flush()
	}
	return f.err
}

func (f *frames) close() { _ = f.conn.Close() }
