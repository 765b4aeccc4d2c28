package wire

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

var head = raft.RPCHeader{ProtocolVersion: 3, ID: []byte("n1"), Addr: []byte("127.0.0.1:7000")}

func requests() []any {
	return []any{
		&raft.AppendEntriesRequest{RPCHeader: head, Term: 7},
		&raft.AppendEntriesRequest{
			RPCHeader: head, Term: 7, PrevLogEntry: 41, PrevLogTerm: 6, LeaderCommitIndex: 40,
			Entries: []*raft.Log{
				{Index: 42, Term: 7, Type: raft.LogCommand, Data: []byte("a write set")},
				{Index: 43, Term: 7, Type: raft.LogNoop},
				{Index: 44, Term: 7, Type: raft.LogConfiguration, Data: []byte("members"), Extensions: []byte("more"), AppendedAt: time.Unix(0, 1_700_000_000_000_000_001)},
			},
		},
		&raft.RequestVoteRequest{RPCHeader: head, Term: 8, LastLogIndex: 44, LastLogTerm: 7, LeadershipTransfer: true},
		&raft.RequestPreVoteRequest{RPCHeader: head, Term: 8, LastLogIndex: 44, LastLogTerm: 7},
		&raft.InstallSnapshotRequest{
			RPCHeader: head, SnapshotVersion: 1, Term: 8, LastLogIndex: 44, LastLogTerm: 7,
			Configuration: []byte("members"), ConfigurationIndex: 2, Size: 11,
		},
		&raft.TimeoutNowRequest{RPCHeader: head},
	}
}

// answers are pairs of an answer and an empty one of its type.
func answers() [][2]any {
	return [][2]any{
		{&raft.AppendEntriesResponse{RPCHeader: head, Term: 7, LastLog: 44, Success: true}, &raft.AppendEntriesResponse{}},
		{&raft.AppendEntriesResponse{RPCHeader: head, Term: 7, LastLog: 44, NoRetryBackoff: true}, &raft.AppendEntriesResponse{}},
		{&raft.RequestVoteResponse{RPCHeader: head, Term: 8, Granted: true}, &raft.RequestVoteResponse{}},
		{&raft.RequestPreVoteResponse{RPCHeader: head, Term: 8, Granted: true}, &raft.RequestPreVoteResponse{}},
		{&raft.InstallSnapshotResponse{RPCHeader: head, Term: 8, Success: true}, &raft.InstallSnapshotResponse{}},
		{&raft.TimeoutNowResponse{RPCHeader: head}, &raft.TimeoutNowResponse{}},
	}
}

func encoded(t testing.TB, m any) []byte {
	t.Helper()
	b, err := encode(nil, m)
	require.NoError(t, err)
	require.Equal(t, len(b)-lengthBytes, int(be.Uint32(b)))
	return b[lengthBytes:]
}

func TestEveryMessageArrivesAsItWasSent(t *testing.T) {
	for _, m := range requests() {
		got, err := decodeRequest(encoded(t, m))
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
	for _, pair := range answers() {
		require.NoError(t, decodeAnswer(encoded(t, pair[0]), pair[1]))
		require.Equal(t, pair[0], pair[1])
	}
	err := decodeAnswer(encoded(t, errors.New("not now")), &raft.TimeoutNowResponse{})
	require.Equal(t, FailedError("not now"), err)
	_, err = encode(nil, "a string")
	require.Error(t, err)
}

// Everything that is cut short, too long, or of another kind is refused.
func TestWhatIsNoMessageIsRefused(t *testing.T) {
	for _, m := range requests() {
		b := encoded(t, m)
		for n := range b {
			_, err := decodeRequest(b[:n])
			require.ErrorIs(t, err, ErrFormat, "%T cut to %d bytes", m, n)
		}
		_, err := decodeRequest(append(b, 0))
		require.ErrorIs(t, err, ErrFormat)
	}
	for i, pair := range answers() {
		b := encoded(t, pair[0])
		for n := range b {
			require.ErrorIs(t, decodeAnswer(b[:n], pair[1]), ErrFormat)
		}
		require.ErrorIs(t, decodeAnswer(append(b, 0), pair[1]), ErrFormat)
		other := answers()[(i+2)%len(answers())]
		require.ErrorIs(t, decodeAnswer(encoded(t, other[0]), pair[1]), ErrFormat, "the answer to another question")
	}
	many := &raft.AppendEntriesRequest{RPCHeader: head}
	for range MaxEntries + 1 {
		many.Entries = append(many.Entries, &raft.Log{})
	}
	_, err := decodeRequest(encoded(t, many))
	require.ErrorIs(t, err, ErrFormat)
	require.Len(t, fitting(many.Entries), MaxEntries)
}

func TestAMessageHasABound(t *testing.T) {
	small, large := &raft.Log{Data: make([]byte, 1<<20)}, &raft.Log{Data: make([]byte, 2*MaxMessage)}
	require.Len(t, fitting([]*raft.Log{small, small, small, small, small, small}), 3)
	require.Len(t, fitting([]*raft.Log{large, small}), 1, "one entry goes, whatever its size")
	require.Len(t, fitting([]*raft.Log{small, large}), 1)
	require.Empty(t, fitting(nil))
}

// A length that is a lie costs no more memory than the bytes that were sent, and a megabyte.
func TestALengthIsNotBelieved(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		_, _ = there.Write(be.AppendUint32(nil, maxLength))
		_, _ = there.Write(make([]byte, 100))
		_ = there.Close()
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := newStream(here).read()
	runtime.ReadMemStats(&after)
	require.Error(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
	for _, n := range []uint32{0, maxLength + 1, 1<<32 - 1} {
		here, there := net.Pipe()
		go func() { _, _ = there.Write(be.AppendUint32(nil, n)) }()
		_, err := newStream(here).read()
		require.ErrorIs(t, err, ErrFormat)
	}
}

// A message larger than what is believed at once arrives whole.
func TestALongMessageArrives(t *testing.T) {
	m := &raft.AppendEntriesRequest{RPCHeader: head, Term: 1, Entries: []*raft.Log{{Index: 1, Term: 1, Data: bytes.Repeat([]byte("0123456789abcdef"), 700_000)}}}
	here, there := net.Pipe()
	go func() { _ = newStream(there).write(m) }()
	b, err := newStream(here).read()
	require.NoError(t, err)
	got, err := decodeRequest(b)
	require.NoError(t, err)
	require.Equal(t, m, got)
}

// FuzzMessages: any bytes are refused or are the one encoding of what they mean.
func FuzzMessages(f *testing.F) {
	for _, m := range requests() {
		f.Add(encoded(f, m))
	}
	for _, pair := range answers() {
		f.Add(encoded(f, pair[0]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeRequest(b); err == nil {
			require.Equal(t, b, encoded(t, m))
		}
		for _, pair := range answers() {
			if err := decodeAnswer(b, pair[1]); err == nil {
				require.Equal(t, b, encoded(t, pair[1]))
			}
		}
	})
}
