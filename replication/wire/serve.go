package wire

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// acceptPause is how long to wait after a connection could not be accepted: out of file descriptors, most likely.
const acceptPause = 50 * time.Millisecond

func (t *Transport) accept() {
	for {
		c, err := t.o.Stream.Accept()
		if err == nil {
			go t.serve(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		t.o.Logger.Warn("raft transport: accept", "error", err)
		select {
		case <-time.After(acceptPause):
		case <-t.closed:
			return
		}
	}
}

// serve answers the requests of one connection, one after the other.
func (t *Transport) serve(c net.Conn) {
	t.mu.Lock()
	t.open[c] = struct{}{}
	t.mu.Unlock()
	defer func() {
		_ = c.Close()
		t.mu.Lock()
		delete(t.open, c)
		t.mu.Unlock()
	}()
	s := newStream(c)
	for {
		select {
		case <-t.closed:
			return
		default:
		}
		err := t.serveOne(s)
		switch {
		case err == nil:
		case errors.Is(err, ErrFormat):
			t.o.Logger.Warn("raft transport: a connection carried something that is not a message; closed", "from", c.RemoteAddr().String(), "error", err)
			return
		default:
			return // it ended, or its peer takes no answers: the peer notices and opens another one
		}
	}
}

// errOver ends a connection that did what it was for.
var errOver = errors.New("raft transport: over")

func (t *Transport) serveOne(s *stream) error {
	b, err := s.read()
	if err != nil {
		return err
	}
	m, err := decodeRequest(b)
	if err != nil {
		return err
	}
	answers := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: m, RespChan: answers}
	install, last := m.(*raft.InstallSnapshotRequest)
	if last {
		rpc.Reader = io.LimitReader(s.r, install.Size)
	}
	if err := t.hand(rpc); err != nil {
		return err
	}
	select {
	case a := <-answers:
		var answer any = a.Error
		if a.Error == nil {
			answer = a.Response
		}
		_ = s.SetWriteDeadline(time.Now().Add(t.o.Timeout))
		if err := s.write(answer); err != nil || !last {
			return err
		}
		return errOver
	case <-t.closed:
		return ErrClosed
	}
}

// hand gives a request to raft; heartbeats go past the others.
func (t *Transport) hand(rpc raft.RPC) error {
	if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && isHeartbeat(a) {
		t.mu.Lock()
		fn := t.heartbeat
		t.mu.Unlock()
		if fn != nil {
			fn(rpc)
			return nil
		}
	}
	select {
	case t.rpcs <- rpc:
		return nil
	case <-t.closed:
		return ErrClosed
	}
}

// isHeartbeat tells the messages that raft sends beside replication.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && len(a.Addr) > 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}
