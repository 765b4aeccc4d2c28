package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// plain is a StreamLayer without TLS.
type plain struct{ net.Listener }

func (plain) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(to), timeout)
}

func start(t *testing.T, o Options) *Transport {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o.Stream = plain{l}
	tr := New(o)
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// answering has somebody answer every request of t, until it is closed.
func answering(t *Transport, fn func(raft.RPC)) {
	go func() {
		for {
			select {
			case rpc := <-t.Consumer():
				fn(rpc)
			case <-t.closed:
				return
			}
		}
	}()
}

func TestRequestsAreAnswered(t *testing.T) {
	a, b := start(t, Options{}), start(t, Options{})
	var got []any
	var snapshot []byte
	answering(b, func(rpc raft.RPC) {
		got = append(got, rpc.Command)
		if rpc.Reader != nil {
			snapshot, _ = io.ReadAll(rpc.Reader)
		}
		switch rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			rpc.Respond(answers()[0][0], nil)
		case *raft.RequestVoteRequest:
			rpc.Respond(answers()[2][0], nil)
		case *raft.RequestPreVoteRequest:
			rpc.Respond(answers()[3][0], nil)
		case *raft.InstallSnapshotRequest:
			rpc.Respond(answers()[4][0], nil)
		case *raft.TimeoutNowRequest:
			rpc.Respond(nil, errors.New("not now"))
		}
	})
	to, all := b.LocalAddr(), requests()
	for range 2 { // connections are used again
		got = nil
		var appended raft.AppendEntriesResponse
		require.NoError(t, a.AppendEntries("b", to, all[1].(*raft.AppendEntriesRequest), &appended))
		require.Equal(t, answers()[0][0], &appended)
		var vote raft.RequestVoteResponse
		require.NoError(t, a.RequestVote("b", to, all[2].(*raft.RequestVoteRequest), &vote))
		require.True(t, vote.Granted)
		var pre raft.RequestPreVoteResponse
		require.NoError(t, a.RequestPreVote("b", to, all[3].(*raft.RequestPreVoteRequest), &pre))
		require.True(t, pre.Granted)
		var installed raft.InstallSnapshotResponse
		require.NoError(t, a.InstallSnapshot("b", to, all[4].(*raft.InstallSnapshotRequest), &installed, bytes.NewReader([]byte("all my rows"))))
		require.True(t, installed.Success)
		require.Equal(t, "all my rows", string(snapshot))
		err := a.TimeoutNow("b", to, all[5].(*raft.TimeoutNowRequest), &raft.TimeoutNowResponse{})
		require.Equal(t, FailedError("not now"), err)
		require.Equal(t, all[1:], got)
	}
	require.Equal(t, to, a.DecodePeer(a.EncodePeer("b", to)))
	require.Len(t, a.idle[to], 1, "one after the other needs one connection")
}

// Raft is busy with its disk for as long as it likes: heartbeats are answered.
func TestHeartbeatsPassWhatWaits(t *testing.T) {
	a, b := start(t, Options{Timeout: 500 * time.Millisecond}), start(t, Options{})
	b.SetHeartbeatHandler(func(rpc raft.RPC) { rpc.Respond(answers()[0][0], nil) })
	waiting := requests()[1].(*raft.AppendEntriesRequest)
	require.Error(t, a.AppendEntries("b", b.LocalAddr(), waiting, &raft.AppendEntriesResponse{}), "nobody takes it")
	beat := requests()[0].(*raft.AppendEntriesRequest)
	require.NoError(t, a.AppendEntries("b", b.LocalAddr(), beat, &raft.AppendEntriesResponse{}))
}

func TestAPipelineKeepsOrderAndSaysWhatItSent(t *testing.T) {
	a, b := start(t, Options{}), start(t, Options{})
	answering(b, func(rpc raft.RPC) {
		m := rpc.Command.(*raft.AppendEntriesRequest)
		rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: head, Term: m.Term, LastLog: m.Entries[len(m.Entries)-1].Index, Success: true}, nil)
	})
	p, err := a.AppendEntriesPipeline("b", b.LocalAddr())
	require.NoError(t, err)
	next := uint64(1)
	var ends []uint64
	for range 100 {
		m := &raft.AppendEntriesRequest{RPCHeader: head, Term: 1, PrevLogEntry: next - 1}
		for i := range uint64(10) {
			m.Entries = append(m.Entries, &raft.Log{Index: next + i, Term: 1, Data: make([]byte, MaxMessage/4)})
		}
		if len(ends) > 3 {
			m.Entries = m.Entries[:1]
			m.Entries[0].Data = nil
		}
		_, err := p.AppendEntries(m, new(raft.AppendEntriesResponse))
		require.NoError(t, err)
		if len(ends) <= 3 {
			require.Len(t, m.Entries, 3, "the rest does not fit")
		}
		next = m.Entries[len(m.Entries)-1].Index + 1
		ends = append(ends, next-1)
		if len(ends) >= 10 {
			x := <-p.Consumer()
			require.NoError(t, x.Error())
			require.Equal(t, ends[0], x.Response().LastLog)
			require.Equal(t, ends[0], x.Request().Entries[len(x.Request().Entries)-1].Index)
			ends = ends[1:]
		}
	}
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
}

// When the peer is gone, what was on the way is answered without success.
func TestAPipelineEndsWithItsPeer(t *testing.T) {
	a, b := start(t, Options{}), start(t, Options{})
	p, err := a.AppendEntriesPipeline("b", b.LocalAddr())
	require.NoError(t, err)
	m := requests()[1].(*raft.AppendEntriesRequest)
	resp := &raft.AppendEntriesResponse{Success: true}
	x, err := p.AppendEntries(m, resp)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.Equal(t, x, <-p.Consumer())
	require.Error(t, x.Error())
	require.False(t, x.Response().Success)
	y := &sent{done: make(chan struct{}), closed: p.(*pipeline).closed}
	require.NoError(t, p.Close())
	require.ErrorIs(t, y.Error(), raft.ErrPipelineShutdown)
}

func TestAConnectionWithoutMessagesIsClosed(t *testing.T) {
	b := start(t, Options{})
	for _, bytes := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), {0, 0, 0, 2, 9, 9}, {0, 0, 0, 1, kindFailed}} {
		c, err := net.Dial("tcp", string(b.LocalAddr()))
		require.NoError(t, err)
		_, err = c.Write(bytes)
		require.NoError(t, err)
		_, err = io.ReadAll(c)
		if err != nil { // the kernel may say that not everything was read
			require.ErrorContains(t, err, "reset")
		}
		require.NoError(t, c.Close())
	}
}

func TestCloseEndsConnections(t *testing.T) {
	a, b := start(t, Options{}), start(t, Options{})
	answering(b, func(rpc raft.RPC) { rpc.Respond(answers()[2][0], nil) })
	vote := requests()[2].(*raft.RequestVoteRequest)
	require.NoError(t, a.RequestVote("b", b.LocalAddr(), vote, new(raft.RequestVoteResponse)))
	require.NoError(t, b.Close())
	require.Error(t, a.RequestVote("b", b.LocalAddr(), vote, new(raft.RequestVoteResponse)))
	require.NoError(t, a.Close())
	require.ErrorIs(t, a.RequestVote("b", b.LocalAddr(), vote, new(raft.RequestVoteResponse)), ErrClosed)
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.open) == 0
	}, 10*time.Second, time.Millisecond)
}
