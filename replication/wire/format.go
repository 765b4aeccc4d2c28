package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A message. Integers are big-endian; bytes are u32 length, bytes; a flag is one byte, 0 or 1.
//
//	length u32 | kind u8 | body                              length counts from kind on
//
// Every body but that of kind 0x80 begins with a head: raft's protocol version u8 | sender's ID bytes | sender's address bytes.
//
//	0x01  append entries    head | term u64 | previous index u64 | previous term u64 | commit index u64 | count u32 | entries
//	0x02  request vote      head | term u64 | last index u64 | last term u64 | leadership transfer flag
//	0x03  request pre-vote  head | term u64 | last index u64 | last term u64
//	0x04  install snapshot  head | version u8 | term u64 | last index u64 | last term u64 | configuration index u64 |
//	                        configuration bytes | size u64; then size bytes of snapshot, and the stream ends with the answer
//	0x05  timeout now       head
//	0x80  failed            text: why there is no other answer
//	0x81  .. 0x85           the answers to 0x01 .. 0x05:
//	      append entries    head | term u64 | last index u64 | success flag | do not wait before the next try flag
//	      request vote      head | term u64 | granted flag
//	      request pre-vote  head | term u64 | granted flag
//	      install snapshot  head | term u64 | success flag
//	      timeout now       head
//
// An entry:
//
//	type u8 | what u8 | index u64 | term u64 | [appended at i64, Unix ns, not 0] | [extensions bytes, not empty] | data bytes
//
// what: bit 0: appended at is there, bit 1: extensions are there. A message has one encoding only.
const (
	kindAppend byte = iota + 1
	kindVote
	kindPreVote
	kindInstall
	kindTimeoutNow

	kindFailed byte = 0x80
	kindAnswer byte = 0x80 // + kind of the request

	hasTime       = 1
	hasExtensions = 2

	lengthBytes = 4
	minEntry    = 1 + 1 + 8 + 8 + 4

	// MaxEntries is the largest number of entries in a message.
	MaxEntries = 1024
	// MaxMessage is how many bytes of entries are put together into one message. One entry alone may be larger.
	MaxMessage = 4 << 20

	maxLength = 64 << 20 // the log's largest entry is 32 MiB
	maxText   = 4 << 10
)

// ErrFormat marks bytes that are not what this file describes.
var ErrFormat = errors.New("raft message: bad bytes")

var be = binary.BigEndian

// encode appends a message to dst; m is a pointer to one of raft's requests or answers, or an error.
func encode(dst []byte, m any) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	switch m := m.(type) {
	case *raft.AppendEntriesRequest:
		dst = appendAppend(dst, m)
	case *raft.RequestVoteRequest:
		dst = appendHead(append(dst, kindVote), m.RPCHeader)
		dst = appendUint64s(dst, m.Term, m.LastLogIndex, m.LastLogTerm)
		dst = appendFlag(dst, m.LeadershipTransfer)
	case *raft.RequestPreVoteRequest:
		dst = appendHead(append(dst, kindPreVote), m.RPCHeader)
		dst = appendUint64s(dst, m.Term, m.LastLogIndex, m.LastLogTerm)
	case *raft.InstallSnapshotRequest:
		dst = appendHead(append(dst, kindInstall), m.RPCHeader)
		dst = append(dst, byte(m.SnapshotVersion))
		dst = appendUint64s(dst, m.Term, m.LastLogIndex, m.LastLogTerm, m.ConfigurationIndex)
		dst = appendUint64s(appendBytes(dst, m.Configuration), uint64(m.Size))
	case *raft.TimeoutNowRequest:
		dst = appendHead(append(dst, kindTimeoutNow), m.RPCHeader)
	case *raft.AppendEntriesResponse:
		dst = appendHead(append(dst, kindAnswer+kindAppend), m.RPCHeader)
		dst = appendUint64s(dst, m.Term, m.LastLog)
		dst = appendFlag(appendFlag(dst, m.Success), m.NoRetryBackoff)
	case *raft.RequestVoteResponse:
		dst = appendHead(append(dst, kindAnswer+kindVote), m.RPCHeader)
		dst = appendFlag(appendUint64s(dst, m.Term), m.Granted)
	case *raft.RequestPreVoteResponse:
		dst = appendHead(append(dst, kindAnswer+kindPreVote), m.RPCHeader)
		dst = appendFlag(appendUint64s(dst, m.Term), m.Granted)
	case *raft.InstallSnapshotResponse:
		dst = appendHead(append(dst, kindAnswer+kindInstall), m.RPCHeader)
		dst = appendFlag(appendUint64s(dst, m.Term), m.Success)
	case *raft.TimeoutNowResponse:
		dst = appendHead(append(dst, kindAnswer+kindTimeoutNow), m.RPCHeader)
	case error:
		text := m.Error()
		dst = append(append(dst, kindFailed), text[:min(len(text), maxText)]...)
	default:
		return dst[:start], fmt.Errorf("raft message: %T is none", m)
	}
	n := len(dst) - start - lengthBytes
	if n > maxLength {
		return dst[:start], fmt.Errorf("raft message: %d bytes, limit %d", n, maxLength)
	}
	be.PutUint32(dst[start:], uint32(n))
	return dst, nil
}

func appendAppend(dst []byte, m *raft.AppendEntriesRequest) []byte {
	dst = appendHead(append(dst, kindAppend), m.RPCHeader)
	dst = appendUint64s(dst, m.Term, m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex)
	dst = be.AppendUint32(dst, uint32(len(m.Entries)))
	for _, e := range m.Entries {
		dst = appendEntry(dst, e)
	}
	return dst
}

func appendEntry(dst []byte, e *raft.Log) []byte {
	var what byte
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	if at != 0 {
		what |= hasTime
	}
	if len(e.Extensions) > 0 {
		what |= hasExtensions
	}
	dst = append(dst, byte(e.Type), what)
	dst = appendUint64s(dst, e.Index, e.Term)
	if at != 0 {
		dst = be.AppendUint64(dst, uint64(at))
	}
	if len(e.Extensions) > 0 {
		dst = appendBytes(dst, e.Extensions)
	}
	return appendBytes(dst, e.Data)
}

// entrySize is an upper bound for the bytes of an entry.
func entrySize(e *raft.Log) int { return minEntry + 8 + 4 + len(e.Extensions) + len(e.Data) }

func appendHead(dst []byte, h raft.RPCHeader) []byte {
	return appendBytes(appendBytes(append(dst, byte(h.ProtocolVersion)), h.ID), h.Addr)
}

func appendUint64s(dst []byte, all ...uint64) []byte {
	for _, v := range all {
		dst = be.AppendUint64(dst, v)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte { return append(be.AppendUint32(dst, uint32(len(b))), b...) }

func appendFlag(dst []byte, yes bool) []byte {
	if yes {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// decodeRequest decodes kind and body of a request. What it returns shares memory with b.
func decodeRequest(b []byte) (any, error) {
	d := decoder{b: b}
	var m any
	switch kind := d.u8(); kind {
	case kindAppend:
		m = d.append()
	case kindVote:
		m = &raft.RequestVoteRequest{RPCHeader: d.head(), Term: d.u64(), LastLogIndex: d.u64(), LastLogTerm: d.u64(), LeadershipTransfer: d.flag()}
	case kindPreVote:
		m = &raft.RequestPreVoteRequest{RPCHeader: d.head(), Term: d.u64(), LastLogIndex: d.u64(), LastLogTerm: d.u64()}
	case kindInstall:
		m = d.install()
	case kindTimeoutNow:
		m = &raft.TimeoutNowRequest{RPCHeader: d.head()}
	default:
		d.fail(fmt.Sprintf("kind %#x is no request", kind))
	}
	return m, d.end()
}

// decodeAnswer decodes kind and body of an answer into m, a pointer to the answer that is expected. A peer that says why it
// failed is a FailedError.
func decodeAnswer(b []byte, m any) error {
	d := decoder{b: b}
	kind := d.u8()
	if d.err == nil && kind == kindFailed {
		return FailedError(d.b)
	}
	var want byte
	switch m := m.(type) {
	case *raft.AppendEntriesResponse:
		want = kindAppend
		*m = raft.AppendEntriesResponse{RPCHeader: d.head(), Term: d.u64(), LastLog: d.u64(), Success: d.flag(), NoRetryBackoff: d.flag()}
	case *raft.RequestVoteResponse:
		want = kindVote
		*m = raft.RequestVoteResponse{RPCHeader: d.head(), Term: d.u64(), Granted: d.flag()}
	case *raft.RequestPreVoteResponse:
		want = kindPreVote
		*m = raft.RequestPreVoteResponse{RPCHeader: d.head(), Term: d.u64(), Granted: d.flag()}
	case *raft.InstallSnapshotResponse:
		want = kindInstall
		*m = raft.InstallSnapshotResponse{RPCHeader: d.head(), Term: d.u64(), Success: d.flag()}
	case *raft.TimeoutNowResponse:
		want = kindTimeoutNow
		*m = raft.TimeoutNowResponse{RPCHeader: d.head()}
	}
	if want == 0 || kind != kindAnswer+want {
		return fmt.Errorf("%w: kind %#x does not answer for %T", ErrFormat, kind, m)
	}
	return d.end()
}

// FailedError is why a peer did not do what a request asked for, in its words.
type FailedError string

// Error is the peer's text.
func (e FailedError) Error() string { return string(e) }

// decoder reads from b; after the first error everything it returns is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s, %d bytes before the end", ErrFormat, what, len(d.b))
	}
	d.b = nil
}

func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes behind the message")
	}
	return d.err
}

func (d *decoder) u8() byte {
	if len(d.b) < 1 {
		d.fail("cut short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) u64() uint64 {
	if len(d.b) < 8 {
		d.fail("cut short")
		return 0
	}
	v := be.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) flag() bool {
	v := d.u8()
	if v > 1 {
		d.fail("neither yes nor no")
	}
	return v == 1
}

// bytes is nil for none.
func (d *decoder) bytes() []byte {
	if len(d.b) < 4 {
		d.fail("cut short")
		return nil
	}
	n := be.Uint32(d.b)
	if uint64(n) > uint64(len(d.b)-4) {
		d.fail("bad length")
		return nil
	}
	v := d.b[4 : 4+n : 4+n]
	d.b = d.b[4+n:]
	if n == 0 {
		return nil
	}
	return v
}

func (d *decoder) head() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(d.u8()), ID: d.bytes(), Addr: d.bytes()}
}

func (d *decoder) append() *raft.AppendEntriesRequest {
	m := &raft.AppendEntriesRequest{
		RPCHeader: d.head(),
		Term:      d.u64(), PrevLogEntry: d.u64(), PrevLogTerm: d.u64(), LeaderCommitIndex: d.u64(),
	}
	if len(d.b) < 4 {
		d.fail("cut short")
		return m
	}
	n := be.Uint32(d.b)
	d.b = d.b[4:]
	if n == 0 {
		return m
	}
	if n > MaxEntries || int(n) > len(d.b)/minEntry {
		d.fail("bad count")
		return m
	}
	logs := make([]raft.Log, n)
	m.Entries = make([]*raft.Log, n)
	for i := range logs {
		d.entry(&logs[i])
		m.Entries[i] = &logs[i]
	}
	return m
}

func (d *decoder) entry(l *raft.Log) {
	l.Type = raft.LogType(d.u8())
	what := d.u8()
	l.Index, l.Term = d.u64(), d.u64()
	if what&hasTime != 0 {
		at := int64(d.u64())
		if l.AppendedAt = time.Unix(0, at); at == 0 {
			d.fail("a time that is none")
		}
	}
	if what&hasExtensions != 0 {
		if l.Extensions = d.bytes(); len(l.Extensions) == 0 {
			d.fail("extensions that are none")
		}
	}
	if what > hasTime|hasExtensions {
		d.fail("an entry with more than is known")
	}
	l.Data = d.bytes()
}

func (d *decoder) install() *raft.InstallSnapshotRequest {
	m := &raft.InstallSnapshotRequest{
		RPCHeader: d.head(), SnapshotVersion: raft.SnapshotVersion(d.u8()),
		Term: d.u64(), LastLogIndex: d.u64(), LastLogTerm: d.u64(), ConfigurationIndex: d.u64(),
		Configuration: d.bytes(), Size: int64(d.u64()),
	}
	if m.Size < 0 {
		d.fail("bad size")
	}
	return m
}
