package replication

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/wal"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// logRig is a LogStore on a disk in memory that can lose power.
type logRig struct {
	t    *testing.T
	disk *vfs.MemFS
	wrap func(vfs.FS) vfs.FS
	o    LogOptions
	log  *wal.Log
	*LogStore
}

func newLogRig(t *testing.T) *logRig {
	r := &logRig{t: t, disk: vfs.NewCrashableMem(), wrap: func(fs vfs.FS) vfs.FS { return fs }}
	t.Cleanup(func() {
		if r.log != nil {
			_ = r.log.Close()
		}
	})
	return r
}

func (r *logRig) open() *logRig {
	r.t.Helper()
	log, err := wal.Open("db/wal", wal.Options{FS: r.wrap(r.disk), SegmentSize: 64 << 10, Rand: rand.NewChaCha8([32]byte{1})})
	require.NoError(r.t, err)
	r.log, r.LogStore = log, NewLogStore(log, r.o)
	return r
}

// losePower forgets everything that was not synced and opens what is left.
func (r *logRig) losePower() *logRig {
	r.t.Helper()
	crashed := r.disk.CrashClone(vfs.CrashCloneCfg{})
	_ = r.log.Close()
	r.disk = crashed
	return r.open()
}

func (r *logRig) bounds() (uint64, uint64) {
	r.t.Helper()
	first, err := r.FirstIndex()
	require.NoError(r.t, err)
	last, err := r.LastIndex()
	require.NoError(r.t, err)
	return first, last
}

func (r *logRig) requireBounds(first, last uint64) {
	r.t.Helper()
	f, l := r.bounds()
	require.Equal(r.t, [2]uint64{first, last}, [2]uint64{f, l}, "first and last index")
}

func (r *logRig) get(index uint64) raft.Log {
	r.t.Helper()
	var l raft.Log
	require.NoError(r.t, r.GetLog(index, &l))
	return l
}

// command is the entry every test expects at an index.
func command(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d in %d", index, term)}
}

func commands(from, to, term uint64) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, command(i, term))
	}
	return logs
}

func TestEmptyLogStore(t *testing.T) {
	r := newLogRig(t).open()
	r.requireBounds(0, 0)
	require.ErrorIs(t, r.GetLog(1, new(raft.Log)), raft.ErrLogNotFound)
	commit, err := r.GetCommitIndex()
	require.NoError(t, err)
	require.Zero(t, commit)
	v, err := r.Get([]byte("missing"))
	require.NoError(t, err)
	require.Empty(t, v)
	n, err := r.GetUint64([]byte("missing"))
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, r.StoreLogs(nil))
	require.NoError(t, r.DeleteRange(1, 100))
	require.True(t, r.IsMonotonic())
	has, err := raft.HasExistingState(r, r, raft.NewInmemSnapshotStore())
	require.NoError(t, err)
	require.False(t, has)
}

func TestEveryFieldOfAnEntrySurvives(t *testing.T) {
	r := newLogRig(t).open()
	at := time.Unix(1_700_000_000, 123456789)
	logs := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte("servers"), AppendedAt: at},
		{Index: 2, Term: 1, Type: raft.LogNoop, AppendedAt: at},
		{Index: 3, Term: 2, Type: raft.LogBarrier, Extensions: []byte{0}},
		{Index: 4, Term: 2, Type: raft.LogCommand, Data: []byte("d"), Extensions: []byte("ext"), AppendedAt: at},
		{Index: 5, Term: 2, Type: raft.LogAddPeerDeprecated, Data: []byte("peer")},
		{Index: 6, Term: 9, Type: raft.LogCommand, Data: []byte("plain")},
	}
	require.NoError(t, r.StoreLogs(logs))
	for range 2 { // from memory, then from disk
		for _, want := range logs {
			got := r.get(want.Index)
			require.True(t, want.AppendedAt.Equal(got.AppendedAt), "entry %d", want.Index)
			require.Equal(t, string(want.Data), string(got.Data))
			require.Equal(t, string(want.Extensions), string(got.Extensions))
			require.Equal(t, [3]uint64{want.Index, want.Term, uint64(want.Type)}, [3]uint64{got.Index, got.Term, uint64(got.Type)})
		}
		r.losePower()
	}
	e, err := r.log.Get(6)
	require.NoError(t, err)
	require.Equal(t, "plain", string(e.Data), "a command stands in the log as it is")
	require.Equal(t, typeCommand, e.Type)
}

func TestEntriesOfAnyBytesDecodeOrAreRefused(t *testing.T) {
	rng := rand.New(rand.NewChaCha8([32]byte{7}))
	for range 20000 {
		e := wal.Entry{Index: 1, Term: 1, Type: wal.EntryType(rng.UintN(256)), Data: make([]byte, rng.IntN(24))}
		for i := range e.Data {
			e.Data[i] = byte(rng.UintN(256))
		}
		var l raft.Log
		if err := decodeEntry(&e, &l); err != nil {
			require.ErrorIs(t, err, errFormat)
		}
	}
}

func TestGapsAreRefusedAndChangeNothing(t *testing.T) {
	r := newLogRig(t).open()
	require.NoError(t, r.StoreLogs(commands(1, 5, 1)))
	for _, bad := range [][]*raft.Log{
		{command(7, 1)},
		{command(5, 1)},
		{command(1, 1)},
		{command(0, 1)},
		{command(6, 1), command(8, 1)},
		{command(6, 1), command(6, 1)},
	} {
		require.ErrorIs(t, r.StoreLogs(bad), ErrGap)
		r.requireBounds(1, 5)
	}
	require.ErrorIs(t, r.DeleteRange(2, 4), ErrGap)
	r.requireBounds(1, 5)
	require.Equal(t, "3 in 1", string(r.get(3).Data))
	require.NoError(t, r.StoreLog(command(6, 1)))
	require.NoError(t, r.Err())
}

func TestDeleteRange(t *testing.T) {
	for _, c := range []struct {
		name        string
		lo, hi      uint64
		first, last uint64
		next        uint64 // accepted next
	}{
		{"front", 1, 10, 11, 20, 21},
		{"front, from below the first", 0, 3, 4, 20, 21},
		{"back", 11, 20, 1, 10, 11},
		{"back, beyond the last", 20, 99, 1, 19, 20},
		{"all", 1, 20, 0, 0, 21},
		{"all, a gap follows as after a restore", 0, 99, 0, 0, 4711},
		{"all, conflicting from the first entry on", 1, 20, 0, 0, 1},
		{"nothing, behind the end", 21, 30, 1, 20, 21},
		{"nothing, empty range", 5, 4, 1, 20, 21},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newLogRig(t).open()
			require.NoError(t, r.StoreLogs(commands(1, 20, 1)))
			require.NoError(t, r.DeleteRange(c.lo, c.hi))
			for range 2 {
				r.requireBounds(c.first, c.last)
				for i := uint64(1); i <= 21; i++ {
					err := r.GetLog(i, new(raft.Log))
					if c.first <= i && i <= c.last {
						require.NoError(t, err)
					} else {
						require.Equal(t, raft.ErrLogNotFound, err, "raft compares with ==")
					}
				}
				r.losePower()
			}
			require.NoError(t, r.StoreLogs(commands(c.next, c.next+3, 2)))
			require.Equal(t, fmt.Sprintf("%d in 2", c.next+1), string(r.losePower().get(c.next+1).Data))
			first, last := r.bounds()
			require.Equal(t, c.next+3, last)
			if c.first == 0 {
				require.Equal(t, c.next, first)
			}
		})
	}
}

func TestCommitIndexTravelsWithTheEntries(t *testing.T) {
	r := newLogRig(t).open()
	commit := func() uint64 {
		c, err := r.GetCommitIndex()
		require.NoError(t, err)
		return c
	}
	require.NoError(t, r.StageCommitIndex(3))
	require.Zero(t, commit(), "staged is not durable")
	require.NoError(t, r.SetUint64([]byte("CurrentTerm"), 1))
	require.Zero(t, r.log.CommitIndex(), "a vote does not carry it")
	require.NoError(t, r.StoreLogs(commands(1, 2, 1)))
	require.Equal(t, uint64(2), commit(), "never beyond the last entry")
	require.Equal(t, uint64(2), r.losePower().log.CommitIndex())
	require.NoError(t, r.StageCommitIndex(3))
	require.NoError(t, r.StoreLogs(commands(3, 9, 1)))
	require.Equal(t, uint64(3), commit())
	require.NoError(t, r.StageCommitIndex(2))
	require.NoError(t, r.StoreLogs(commands(10, 10, 1)))
	r.losePower()
	require.Equal(t, uint64(3), commit(), "it never goes back")
	require.NoError(t, r.DeleteRange(1, 10))
	require.Zero(t, commit(), "an empty log has none")
}

func TestVoteAndTermSurvivePowerLoss(t *testing.T) {
	r := newLogRig(t).open()
	require.NoError(t, r.SetUint64([]byte("CurrentTerm"), 1<<63))
	require.NoError(t, r.Set([]byte("LastVoteCand"), []byte("n2")))
	require.NoError(t, r.Set([]byte("empty"), nil))
	require.NoError(t, r.StoreLogs(commands(1, 3, 4)))
	r.losePower()
	n, err := r.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.Equal(t, uint64(1<<63), n)
	v, err := r.Get([]byte("LastVoteCand"))
	require.NoError(t, err)
	require.Equal(t, "n2", string(v))
	v, err = r.Get([]byte("empty"))
	require.NoError(t, err)
	require.Empty(t, v)
	require.ErrorIs(t, r.Set([]byte("big"), make([]byte, 1<<20)), wal.ErrInvalid)
	require.NoError(t, r.Err(), "a value that is too large harms nobody")
}

func TestLongStoreLogsIsSplitAtTheLimitsOfTheLog(t *testing.T) {
	r := newLogRig(t).open()
	var logs []*raft.Log
	for i := uint64(1); i <= 300; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Data: make([]byte, 1000)})
	}
	require.NoError(t, r.StoreLogs(logs), "10 times the largest append of a log with 64 KiB segments")
	r.losePower().requireBounds(1, 300)
	require.Len(t, r.get(300).Data, 1000)
}

func TestFailedStoreLogsLeavesNothingBehind(t *testing.T) {
	r := newLogRig(t).open()
	require.NoError(t, r.StoreLogs(commands(1, 5, 1)))
	require.NoError(t, r.StageCommitIndex(9))
	r.o.MaxAppendBytes = 1000
	r.LogStore = NewLogStore(r.log, r.o)
	logs := commands(6, 200, 1)
	logs[150].Data = make([]byte, 60<<10) // over half a segment
	require.ErrorIs(t, r.StoreLogs(logs), wal.ErrTooLarge)
	r.requireBounds(1, 5)
	require.NoError(t, r.Err())
	require.NoError(t, r.StoreLogs(commands(6, 7, 2)))
	require.Equal(t, "6 in 2", string(r.losePower().get(6).Data))
}

// trouble puts a faultFS under the rig.
func (r *logRig) trouble() *faultFS {
	c := &faultFS{}
	r.wrap = func(fs vfs.FS) vfs.FS { c.FS = fs; return c }
	return c
}

func TestNewestEntriesAreReadWithoutTheDisk(t *testing.T) {
	r := newLogRig(t)
	fs := r.trouble()
	r.open()
	for i := uint64(1); i <= 2000; i += 50 {
		require.NoError(t, r.StoreLogs(commands(i, i+49, 1)))
	}
	before := fs.reads.Load()
	for i := uint64(1); i <= 2000; i++ {
		require.Equal(t, fmt.Sprintf("%d in 1", i), string(r.get(i).Data))
	}
	require.Equal(t, before, fs.reads.Load(), "read-backs of raft must not read files")
}

func TestFullDiskRefusesEntriesAndHoldsVotesBack(t *testing.T) {
	r := newLogRig(t)
	fs := r.trouble()
	r.o.SpaceRetry = time.Millisecond
	r.open()
	require.NoError(t, r.StoreLogs(commands(1, 5, 1)))
	fs.full.Store(true)
	require.ErrorIs(t, r.StoreLogs(commands(6, 9, 1)), wal.ErrNoSpace)
	r.requireBounds(1, 5)
	saved := make(chan error, 1)
	go func() { saved <- r.SetUint64([]byte("CurrentTerm"), 7) }()
	select {
	case err := <-saved:
		t.Fatalf("the term was answered on a full disk: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	fs.full.Store(false)
	require.NoError(t, <-saved)
	require.NoError(t, r.StoreLogs(commands(6, 9, 1)))
	n, err := r.losePower().GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.Equal(t, uint64(7), n)
	r.requireBounds(1, 9)
}

func TestInterruptEndsWaitingForSpace(t *testing.T) {
	r := newLogRig(t)
	fs := r.trouble()
	r.o.SpaceRetry = time.Hour
	r.open()
	fs.full.Store(true)
	saved := make(chan error, 1)
	go func() { saved <- r.SetUint64([]byte("CurrentTerm"), 7) }()
	r.Interrupt()
	require.ErrorIs(t, <-saved, ErrHalted)
}

func TestFailedAppendAfterTruncationHalts(t *testing.T) {
	r := newLogRig(t)
	fs := r.trouble()
	r.open()
	require.NoError(t, r.StoreLogs(commands(1, 9, 1)))
	require.NoError(t, r.DeleteRange(6, 9))
	fs.full.Store(true)
	// raft has not yet noticed that 6..9 are gone, and never will if this fails.
	require.ErrorIs(t, r.StoreLogs(commands(6, 6, 2)), ErrHalted)
	require.ErrorIs(t, r.SetUint64([]byte("CurrentTerm"), 2), ErrHalted)
	fs.full.Store(false)
	r.losePower().requireBounds(1, 5)
}

func TestFailedLogHalts(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(r *logRig, fs *faultFS)
		want  error
	}{
		{"failed sync", func(r *logRig, fs *faultFS) { fs.sick.Store(true) }, wal.ErrFailed},
		{"closed log", func(r *logRig, fs *faultFS) { require.NoError(r.t, r.log.Close()) }, wal.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newLogRig(t)
			fs := r.trouble()
			var calls atomic.Int32
			r.o.Halt = func(err error) { calls.Add(1) }
			r.open()
			require.NoError(t, r.StoreLogs(commands(1, 5, 1)))
			c.spoil(r, fs)
			err := r.StoreLogs(commands(6, 6, 1))
			require.ErrorIs(t, err, ErrHalted)
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, r.Err(), c.want)
			<-r.Halted()
			all := []error{
				r.Set([]byte("k"), []byte("v")), r.SetUint64([]byte("k"), 1), r.StoreLog(command(6, 1)),
				r.DeleteRange(1, 1), r.StoreLogs(nil),
			}
			for i, err := range all {
				require.ErrorIs(t, err, ErrHalted, "call %d", i)
			}
			require.Equal(t, int32(1+len(all)), calls.Load(), "every writer is told")
			r.requireBounds(1, 5)
			require.Equal(t, "5 in 1", string(r.get(5).Data), "what is durable can be read")
		})
	}
}

func TestReadOfAClosedLogIsNotCompaction(t *testing.T) {
	r := newLogRig(t).open()
	require.NoError(t, r.StoreLogs(commands(1, 5, 1)))
	r.losePower() // the newest entries are not in memory any more
	require.NoError(t, r.log.Close())
	err := r.GetLog(3, new(raft.Log))
	require.ErrorIs(t, err, ErrHalted)
	require.False(t, errors.Is(err, raft.ErrLogNotFound), "raft would send a snapshot")
}

func TestDamagedEntryHalts(t *testing.T) {
	r := newLogRig(t).open()
	require.NoError(t, r.StoreLogs(commands(1, 50, 1)))
	r.losePower() // the newest entries are not in memory any more
	f, err := r.disk.OpenReadWrite("db/wal/0000000000000001.seg", vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, 64<<10-4096), 4096)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	err = r.GetLog(20, new(raft.Log))
	require.ErrorIs(t, err, ErrHalted)
	require.ErrorIs(t, err, wal.ErrCorrupt)
	require.ErrorIs(t, r.StoreLog(command(51, 1)), ErrHalted)
}

// TestLogStoreEqualsModelAcrossCrashes runs random sessions of what raft does with its log, with power losses, against
// a map. What returned before the power loss is there after it; what was cut is not.
func TestLogStoreEqualsModelAcrossCrashes(t *testing.T) {
	for seed := int64(1); seed <= 30; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(seed), 1))
			r := newLogRig(t)
			r.o.MaxAppendBytes = 2000
			r.open()
			m := map[uint64]string{}
			first, last, term, vote := uint64(0), uint64(0), uint64(1), uint64(0)
			forget := func(lo, hi uint64) {
				for i := lo; i <= hi; i++ {
					delete(m, i)
				}
			}
			for range 120 {
				switch k := rng.IntN(20); {
				case k < 10:
					next := last + 1
					if last == 0 {
						next = 1 + uint64(rng.IntN(5000))
						first = next
					}
					var logs []*raft.Log
					for i := range uint64(1 + rng.IntN(40)) {
						l := command(next+i, term)
						l.Data = append(l.Data, make([]byte, rng.IntN(200))...)
						logs = append(logs, l)
						m[l.Index] = string(l.Data)
					}
					last = logs[len(logs)-1].Index
					require.NoError(t, r.StoreLogs(logs))
				case k < 13 && last != 0:
					lo := first + uint64(rng.IntN(int(last-first+1)))
					require.NoError(t, r.DeleteRange(lo, last))
					forget(lo, last)
					if last = lo - 1; len(m) == 0 {
						first, last = 0, 0
					}
					term++
				case k < 15 && last != 0:
					hi := first + uint64(rng.IntN(int(last-first+1)))
					require.NoError(t, r.DeleteRange(first, hi))
					forget(first, hi)
					if first = hi + 1; len(m) == 0 {
						first, last = 0, 0
					}
				case k < 17:
					vote++
					require.NoError(t, r.SetUint64([]byte("LastVoteTerm"), vote))
				case k < 19:
					crashed := r.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
					_ = r.log.Close()
					r.disk = crashed
					r.open()
				}
				r.requireBounds(first, last)
			}
			got, err := r.GetUint64([]byte("LastVoteTerm"))
			require.NoError(t, err)
			require.Equal(t, vote, got)
			for i, want := range m {
				require.Equal(t, want, string(r.get(i).Data), "entry %d", i)
			}
		})
	}
}
