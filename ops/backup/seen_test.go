package backup

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// contents is a copy of everything in a store.
func contents(t *testing.T, st store.Store) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	require.NoError(t, st.List(context.Background(), "", func(i store.Info) error {
		b, _, err := st.Get(context.Background(), i.Name)
		all[i.Name] = b
		return err
	}))
	return all
}

// A server whose repository is put back to an older state as a whole while it is stopped notices that when it is started again.
func TestAServerNoticesThatItsRepositoryWasPutBack(t *testing.T) {
	w := newSite(t, nil)
	w.write(3)
	_, err := w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err)
	old := contents(t, w.disk.Store)
	w.write(3)
	_, err = w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err)
	now := contents(t, w.disk.Store)
	place := func(all map[string][]byte) {
		w.disk.Store, err = store.CreateDir(vfs.NewMem(), "repo")
		require.NoError(t, err)
		for name, b := range all {
			require.NoError(t, w.disk.Store.Create(bg, name, b))
		}
		w.restart()
	}
	place(old)
	w.write(1)
	_, err = w.svc.Create(bg, CreateOptions{}, nil)
	require.ErrorIs(t, err, backupfmt.ErrRolledBack)
	rep, err := w.svc.Verify(bg, backupfmt.VerifyOptions{}, nil)
	require.True(t, err != nil || rep.Lost(), "a verification says it too")
	w.clock.Advance(time.Hour)
	w.svc.Tick(bg)
	require.Equal(t, EventFailed, w.events[len(w.events)-1].Kind)
	require.Contains(t, w.job(JobIncremental).Last.Result, "rolled-back")
	place(now)
	_, err = w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err, "the state that was remembered is back")

	place(old)
	_, err = w.svc.Create(bg, CreateOptions{AcceptRollback: true}, nil)
	require.NoError(t, err)
	w.restart()
	w.write(1)
	_, err = w.svc.Create(bg, CreateOptions{}, nil)
	require.NoError(t, err, "what was accepted is remembered")
	place(now)
	_, err = w.svc.Create(bg, CreateOptions{}, nil)
	require.ErrorIs(t, err, backupfmt.ErrRolledBack, "and what it replaced is another history now")
}
