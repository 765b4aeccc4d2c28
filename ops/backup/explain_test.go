package backup

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

func TestEveryRefusalOfARepositorySaysWhatToDo(t *testing.T) {
	for _, err := range []error{
		context.Canceled, backupfmt.ErrWrongKey, backupfmt.ErrKeyRequired, backupfmt.ErrNotEncrypted, backupfmt.ErrNotRepo, backupfmt.ErrIsRepo,
		backupfmt.ErrVersion, backupfmt.ErrRekeyed, backupfmt.ErrDiverged, backupfmt.ErrGap, backupfmt.ErrUnsigned, backupfmt.ErrSignKey, backupfmt.ErrNotSigned, backupfmt.ErrDamaged, backupfmt.ErrNoBackup,
		backupfmt.ErrNotReached, backupfmt.ErrFenced, backupfmt.ErrNoParent, backupfmt.ErrNoHistory, backupfmt.ErrTooMany,
		shard.ErrUnreachable, shard.ErrInvalid, shard.ErrDamaged, store.ErrNoSpace, store.ErrDenied, store.ErrNoStore,
	} {
		said := Explain(fmt.Errorf("while at work: %w", err), "/some/repository")
		require.ErrorIs(t, said, err)
		require.NotEqual(t, "while at work: "+err.Error(), said.Error(), "%v has no advice", err)
		require.Equal(t, said, Explain(said, "/some/repository"), "advice is given once")
	}
	require.Contains(t, Explain(backupfmt.ErrRekeyed, "x").Error(), "--key-file")
	require.Contains(t, Explain(backupfmt.ErrDiverged, "x").Error(), "copy it to a new place")
}
