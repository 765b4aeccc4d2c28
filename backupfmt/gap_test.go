package backupfmt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnArchiveGoesOnBehindAGapWhichIsKnownAndNeverRestoredOver(t *testing.T) {
	w := newWorld(t, 90)
	w.fill(200)
	w.backup(Full)
	w.write(5)
	w.ship()
	from := w.ar.Last() + 1
	w.write(5)
	w.ar.SkipTo(w.s.AppliedIndex() + 1) // as if the log had been recycled up to here
	to := w.s.AppliedIndex()
	w.write(5)
	w.ship()
	_, err := w.repo.Plan(bg, Target{})
	var gap *GapError
	require.ErrorAs(t, err, &gap, "no backup covers the gap yet")
	require.Equal(t, []uint64{from, to}, []uint64{gap.From, gap.To})

	rep, err := w.repo.Verify(bg, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage, "a gap that is known is no damage")
	require.Len(t, rep.Gaps, 1)
	require.Equal(t, []uint64{from, to}, []uint64{rep.Gaps[0].From, rep.Gaps[0].To})
	keyless, err := Scrub(bg, w.disk, VerifyOptions{})
	require.NoError(t, err)
	require.Empty(t, keyless.Damage)
	require.Len(t, keyless.Gaps, 1)

	w.backup(Incremental)
	w.write(3)
	w.ship()
	w.restore(Target{})
	_, err = w.repo.Plan(bg, Target{Index: from + 1})
	require.ErrorIs(t, err, ErrGap, "a moment inside the gap is refused for ever")
	again, err := w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	again.SkipTo(1)
	require.Equal(t, w.ar.Last(), again.Last(), "an archive never goes back")
}
