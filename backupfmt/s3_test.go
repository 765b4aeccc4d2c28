package backupfmt

import (
	"bytes"
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/store"
	"github.com/erlmcp/erlmcp/test/s3server"
)

// s3 starts a real S3 server with a bucket and returns the store in it.
func s3(t *testing.T) store.Store {
	t.Helper()
	addr := s3server.Start(t, "backups")
	st, err := store.OpenS3(t.Context(), store.S3Options{
		Endpoint: addr, Insecure: true, Bucket: "backups", Prefix: "site/a", AccessKey: s3server.AccessKey, SecretKey: s3server.SecretKey,
	})
	require.NoError(t, err)
	return st
}

func TestARepositoryInABucketDoesEverything(t *testing.T) {
	w := newWorld(t, 70)
	w.disk = s3(t)
	var err error
	w.repo, err = Init(bg, w.disk, InitOptions{Options: w.options(), KDF: keys.File})
	require.NoError(t, err)
	w.ar, err = w.repo.OpenArchive(bg, w.life())
	require.NoError(t, err)
	w.fill(3000)
	w.backup(Full)
	w.write(20)
	w.ship()
	w.backup(Incremental)
	w.write(5)
	w.ship()
	w.restore(Target{})
	w.restore(Target{Index: w.s.AppliedIndex() - 2})
	rep, err := Scrub(bg, w.disk, VerifyOptions{ReadData: true})
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
	w.backup(Full)
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 1}})
	require.NoError(t, err)
	w.restore(Target{})
}

// tree is everything in a store.
func tree(t *testing.T, st store.Store) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	require.NoError(t, st.List(bg, "", func(i store.Info) error {
		b, _, err := st.Get(bg, i.Name)
		out[i.Name] = b
		return err
	}))
	return out
}

func TestDirectoryToBucketToDirectoryIsByteIdentical(t *testing.T) {
	w := history(t, 71)
	bucket := s3(t)
	_, err := Copy(bg, w.disk, bucket, nil)
	require.NoError(t, err)
	back, err := store.CreateDir(vfs.NewMem(), "back")
	require.NoError(t, err)
	rep, err := Copy(bg, bucket, back, nil)
	require.NoError(t, err)
	require.Equal(t, tree(t, w.disk), tree(t, back))
	require.NotZero(t, rep.Copied)
	again, err := Copy(bg, bucket, back, nil)
	require.NoError(t, err)
	require.Zero(t, again.Bytes)
	w.repo, err = Open(bg, back, w.options())
	require.NoError(t, err)
	w.restore(Target{})
}

func TestACopyGoesOnWhereItWasKilledAndSpreadsNoDamage(t *testing.T) {
	w := history(t, 72)
	to, err := store.CreateDir(vfs.NewMem(), "copy")
	require.NoError(t, err)
	total := len(w.names(""))
	for n := 0; ; n++ {
		require.LessOrEqual(t, n, total)
		if _, err := Copy(bg, w.disk, newFaulty(to, 3), nil); err == nil {
			break
		}
	}
	require.Equal(t, tree(t, w.disk), tree(t, to))

	other := history(t, 73)
	_, err = Copy(bg, other.disk, to, nil)
	require.ErrorIs(t, err, ErrIsRepo)
	bad := w.copyOf()
	name := w.names(folderPacks)[0]
	b, _, err := bad.Get(bg, name)
	require.NoError(t, err)
	flipped := bytes.Clone(b)
	flipped[100] ^= 1
	put(t, bad, name, flipped)
	fresh, err := store.CreateDir(vfs.NewMem(), "fresh")
	require.NoError(t, err)
	_, err = Copy(bg, bad, fresh, nil)
	require.NoError(t, err)
	require.Equal(t, tree(t, w.disk), tree(t, fresh), "a copy is healed on the way")
	clear(flipped[:len(flipped)/2])
	put(t, bad, name, flipped)
	_, err = Copy(bg, bad, fresh, nil)
	require.NoError(t, err, "what is there already is not read again")
	empty, err := store.CreateDir(vfs.NewMem(), "empty")
	require.NoError(t, err)
	_, err = Copy(bg, bad, empty, nil)
	require.ErrorIs(t, err, ErrDamaged)
}

func TestAPlaceForPacksMayBeABucket(t *testing.T) {
	w := newWorld(t, 72)
	bucket := s3(t)
	first := w.disk
	w.several(2)
	_, err := shard.Add(bg, first, bucket, "bucket", w.clock.Now(), w.repo.AnnounceShards(bg, false))
	require.NoError(t, err)
	require.NoError(t, shard.Close(bg, first, shard.First, true, w.repo.AnnounceShards(bg, false)))
	w.disk, err = shard.Open(bg, first, func(context.Context, string) (store.Store, error) { return bucket, nil })
	require.NoError(t, err)
	w.repo, err = Open(bg, w.disk, w.options())
	require.NoError(t, err)
	w.several(3)
	var near, far int
	require.NoError(t, first.List(bg, folderPacks, func(store.Info) error { near++; return nil }))
	require.NoError(t, bucket.List(bg, folderPacks, func(store.Info) error { far++; return nil }))
	require.NotZero(t, near)
	require.NotZero(t, far)
	w.restore(Target{})
	_, err = w.repo.Prune(bg, PruneOptions{Policy: Policy{Last: 2}})
	require.NoError(t, err)
	w.restore(Target{})
	soundStore(t, w)
}
