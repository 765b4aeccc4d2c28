package main

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARepositoryGrowsOverSeveralPlacesAndSaysWhatIsLostWithOne(t *testing.T) {
	v := newVault(t)
	s := start(t, v.dir("data"))
	some(t, s, "a", 3)
	v.must("backup", "create", "--data", v.dir("data"))
	places := func() (docs []shardDoc) {
		t.Helper()
		r := run(t, "backup", "shards", "list", "--json", "--repo", v.repo)
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &docs), r.stderr)
		return docs
	}
	require.Len(t, places(), 1)
	require.Equal(t, exitFailure, run(t, v.args("backup", "shards", "rebalance")...).code)
	require.Equal(t, exitFailure, run(t, v.args("backup", "shards", "add", v.dir("data"))...).code, "it is not empty")
	r := run(t, v.args("backup", "shards", "add", v.dir("second"))...)
	require.Zero(t, r.code, r.stderr)
	require.Zero(t, run(t, v.args("backup", "shards", "close", "first")...).code)
	require.Contains(t, run(t, v.args("backup", "shards", "rebalance")...).stdout, "moved 1 packs")
	some(t, s, "b", 3)
	v.must("backup", "create", "--data", v.dir("data"))
	docs := places()
	require.Zero(t, docs[0].Packs)
	require.Equal(t, 2, docs[1].Packs)
	require.Contains(t, v.must("backup", "verify", "--read-data").stdout, "Sound. 2 backups")
	v.must("backup", "restore", "--to", v.dir("restored"))
	v.must("backup", "copy", "--to", v.dir("copy"))

	require.NoError(t, os.Rename(v.dir("second"), v.dir("unplugged")))
	r = run(t, v.args("backup", "verify")...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stdout, "shard "+docs[1].ID)
	require.Contains(t, r.stdout, "cannot be restored because of it: backups [1 2]")
	r = run(t, v.args("backup", "restore", "--to", v.dir("never"))...)
	require.Equal(t, exitFailure, r.code)
	require.Contains(t, r.stderr, docs[1].ID)
	require.Contains(t, r.stderr, "mount it, or bring it back")
	require.NoDirExists(t, v.dir("never"))
	require.Equal(t, exitFailure, run(t, "backup", "shards", "list", "--repo", v.repo).code)
	require.Equal(t, "", run(t, v.args("backup", "shards", "open", "first")...).stderr)
	require.Contains(t, v.must("backup", "create", "--type", "full", "--data", v.dir("data")).stdout, "backup 3")
	v.must("backup", "restore", "3", "--to", v.dir("third"))
	v.must("backup", "shards", "remove", docs[1].ID, "--lost")
	require.Zero(t, run(t, "backup", "copy", "--repo", v.dir("copy"), "--to", v.repo).code)
	require.Contains(t, v.must("backup", "verify", "--read-data").stdout, "Sound. 3 backups")
}
