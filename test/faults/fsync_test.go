package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/faults/faultfs"
	"github.com/erlmcp/erlmcp/test/process"
)

// TestAFailedFsyncEndsTheProcessAndLosesNothing fails one fsync under load, again and again in the same directory, at
// different moments: the first one after the start, between group commits, at a rotation of the log.
func TestAFailedFsyncEndsTheProcessAndLosesNothing(t *testing.T) {
	s := newSite(t, 8, smallSegments...)
	s.start()
	s.prepare()
	for round, after := range []int{0, 1, 7, 40, 250} {
		if round > 0 {
			s.start()
			s.nothingLost()
		}
		s.rules(fmt.Sprintf("sync wal/*.seg EIO after=%d times=1\n", after))
		s.failStop()
		s.rules("") // the disk works again; the page cache still holds what failed
	}
	s.start()
	s.nothingLost()
	s.work(200 * time.Millisecond)
	s.nothingLost()
	s.stopAndVerify()
	totals := s.crowd.Totals()
	t.Logf("%+v", totals)
	require.NotZero(t, totals.Changes)
	require.NotZero(t, totals.Settled, "the change in flight has no answer")
}

// failStop lets the crowd work until the disk's rules end the process, and checks how it went.
func (s *site) failStop() {
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	defer cancel()
	stopped := s.crowd.Run(ctx, s.server)
	require.NoError(s.t, ctx.Err(), "the server went on acknowledging after a failed fsync")
	require.NotEmpty(s.t, stopped)
	code, err := s.server.Wait(process.Patience)
	require.NoError(s.t, err)
	log := s.server.Stderr()
	require.Equal(s.t, 1, code, log)
	require.Contains(s.t, log, faultfs.Mark)
	require.Contains(s.t, log, "what happened: the disk below "+s.dir+" refused a write")
	require.Contains(s.t, log, "input/output error")
	require.Contains(s.t, log, "what is intact: every change that was acknowledged")
	require.Contains(s.t, log, "what to do: look at the disk")
	require.Contains(s.t, log, "acknowledged nothing that is not on disk")
	require.NotContains(s.t, log, "panic")
	require.NotContains(s.t, log, "goroutine ")
	require.Empty(s.t, s.crowd.Violations())
}

func TestADiskThatNeverSyncsAgainKeepsTheServerDownAndHarmsNothing(t *testing.T) {
	s := newSite(t, 4)
	s.start()
	s.prepare()
	s.work(200 * time.Millisecond)
	s.rules("sync * EIO\n")
	s.failStop()
	for range 3 {
		_, err := process.Start(s.options())
		require.ErrorContains(t, err, "ended at its start with code 1")
		require.ErrorContains(t, err, "input/output error")
		require.NotContains(t, err.Error(), "panic")
	}
	s.rules("")
	s.start()
	s.nothingLost()
	s.stopAndVerify()
}
