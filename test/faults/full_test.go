package faults

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/faults/faultfs"
	"github.com/erlmcp/erlmcp/test/load"
	"github.com/erlmcp/erlmcp/test/process"
)

// TestADiskThatFillsUpRefusesWritesKeepsReadsAndRecovers: the disk gives ENOSPC although it had claimed to have space
// (a quota, a thin volume), for the log and for the store, in the middle of the load.
func TestADiskThatFillsUpRefusesWritesKeepsReadsAndRecovers(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		refuses     bool
		args        []string
	}{
		{"the log cannot write", "write wal/*.seg ENOSPC\n", true, nil},
		{"no new files, so the log cannot rotate", "create * ENOSPC\n", true, smallSegments},
		{"nothing can be written", "write * ENOSPC\ncreate * ENOSPC\n", true, nil},
		{"full after some writes", "write * ENOSPC after=30\ncreate * ENOSPC after=1\n", true, nil},
		// Of two writes to the log in a row one at least is a batch; the other may be an end mark, which can wait.
		{"two writes do not fit", "write wal/*.seg ENOSPC after=5 times=2\n", true, nil},
		{"the store cannot write, the log can", "write store/* ENOSPC\ncreate store/* ENOSPC\n", false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, 4, c.args...)
			s.start()
			s.prepare()
			s.work(150 * time.Millisecond)
			s.rules(c.rules)
			if c.refuses {
				s.workUntilRefused()
			} else {
				s.work(300 * time.Millisecond)
				require.Zero(t, s.crowd.Totals().Refused["no_space"], "the log is enough to acknowledge")
			}
			refused := s.crowd.Totals().Refused["no_space"]
			require.NoError(t, s.crowd.Compare(context.Background(), s.server, load.Everything), "reads go on")
			require.Empty(t, s.crowd.Violations())

			s.rules("")
			before := s.crowd.Totals().Changes
			s.work(200 * time.Millisecond)
			require.Greater(t, s.crowd.Totals().Changes, before, "writes go on when there is space again")
			s.nothingLost()
			s.server.Kill()
			s.start()
			s.nothingLost()
			s.stopAndVerify()
			t.Logf("%d writes refused", refused)
		})
	}
}

// TestADiskThatIsFullAtARotationLosesNothing: where even the last bytes of a segment that has its space already cannot be
// written (copy-on-write file systems), the log cannot seal it. The server may refuse or stop like after a failed fsync;
// it must say so, lose nothing, and come back.
func TestADiskThatIsFullAtARotationLosesNothing(t *testing.T) {
	s := newSite(t, 4, smallSegments...)
	s.start()
	s.prepare()
	s.work(100 * time.Millisecond)
	s.rules("write wal/*.seg ENOSPC from=128000\n") // of 131072 bytes: the footer

	struck := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		struck <- s.server.Logged(faultfs.Mark)
		time.Sleep(300 * time.Millisecond) // work on a disk that is full
		cancel()
	}()
	stopped := s.crowd.Run(ctx, s.server)
	require.NoError(t, <-struck)
	s.rules("")
	if len(stopped) == 0 {
		t.Logf("%d writes refused", s.crowd.Totals().Refused["no_space"])
		require.NotZero(t, s.crowd.Totals().Refused["no_space"])
	} else {
		code, err := s.server.Wait(process.Patience)
		require.NoError(t, err)
		require.Equal(t, 1, code)
		require.Contains(t, s.server.Stderr(), "no space left on device")
		require.Contains(t, s.server.Stderr(), "what to do: look at the disk")
		t.Log("the server stopped")
		s.start()
	}
	s.nothingLost()
	s.work(200 * time.Millisecond)
	s.nothingLost()
	s.stopAndVerify()
}

func TestTheRefusalOfAFullDiskSaysWhatToDo(t *testing.T) {
	s := newSite(t, 1)
	s.start()
	s.rules("write wal/*.seg ENOSPC\n")
	c := s.server.Caller()
	defer c.Close()
	_, err := c.Call(context.Background(), "wip_set_limit", map[string]any{"bucket": "features", "limit": 3})
	var no *process.Refused
	require.ErrorAs(t, err, &no)
	require.Equal(t, "no_space", no.Code)
	require.Contains(t, no.Message, "nothing was changed and reading still works. Free disk space")
}
