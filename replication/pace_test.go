package replication

import (
	"context"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// TestALeaderWhoseDiskHangsIsReplaced: it would lead for as long as its disk likes, and nothing would be written or read anywhere.
func TestALeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	f := forwardingFleet(t, 3)
	f.put("before", "1")
	l := f.leader()
	release := l.fs.hang()
	stuck := make(chan error, 1)
	go func() {
		_, err := put(l.store, "stuck", "1")
		stuck <- err
	}()
	next := f.leader(l)
	_, err := put(next.store, "meanwhile", "1")
	require.NoError(t, err, "while the disk hangs")

	f.eventually("the member with the disk says so", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := l.store.Update(ctx, func(tx *engine.Tx) error { return tx.Put("t", []byte("other"), nil) })
		require.ErrorIs(t, err, engine.ErrUnavailable)
		return err != nil && l.node.stalled()
	})
	require.Positive(t, l.node.DiskPace())
	release()
	want := map[string]string{"before": "1", "meanwhile": "1"}
	if <-stuck == nil {
		want["stuck"] = "1"
	}
	f.converge(want)
}

func TestThePaceOfADisk(t *testing.T) {
	p := newPace()
	require.Zero(t, p.recent(), "nothing is known")
	done := p.writing()
	p.since.Store(p.now() - int64(time.Second))
	require.GreaterOrEqual(t, p.waiting(), time.Second)
	require.GreaterOrEqual(t, p.recent(), time.Second, "the write under way counts")
	done()
	require.Zero(t, p.waiting())
	p.mean.Store(int64(time.Second))
	p.writing()()
	require.InDelta(t, 0.875, p.recent().Seconds(), 0.01, "an eighth")
	p.last.Store(p.now() - int64(paceMemory) - 1)
	require.Zero(t, p.recent(), "forgotten")
}

// silentPipe counts what is sent.
type silentPipe struct {
	raft.AppendPipeline
	sent int
}

func (s *silentPipe) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	s.sent++
	return nil, nil
}

func TestAPipelineIsSilentWhileTheDiskIs(t *testing.T) {
	silent, pipe := true, &silentPipe{}
	s := &stalling{pipe, func() bool { return silent }}
	_, err := s.AppendEntries(nil, nil)
	require.ErrorIs(t, err, errStalled)
	silent = false
	_, err = s.AppendEntries(nil, nil)
	require.NoError(t, err)
	require.Equal(t, 1, pipe.sent)
}
