package cluster

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/stretchr/testify/require"
)

// founded makes the store of the first member and closes it.
func founded(t *testing.T) (dir string, s *site) {
	t.Helper()
	s = newSite(t, "n1")
	_, err := Init(s.dir, InitOptions{Name: s.name, Advertise: s.addr, Now: time.Now()})
	require.NoError(t, err)
	s.run()
	s.await("a leader", func() bool { return s.m.Node() != nil && s.m.Node().IsLeader() })
	s.stop()
	return s.dir, s
}

func (s *site) await(what string, ok func() bool) {
	s.t.Helper()
	require.Eventually(s.t, ok, patience, 10*time.Millisecond, what)
}

func alone(t *testing.T, dir string) error {
	t.Helper()
	store, err := engine.Open(dir, engineOptions())
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	return CheckAlone(dir, store.Log())
}

// TestAStoreDoesNotGoOnWithoutItsMember: it would take changes that its cluster never hears of.
func TestAStoreDoesNotGoOnWithoutItsMember(t *testing.T) {
	dir, _ := founded(t)
	id := filepath.Join(dir, Folder, "member.json")
	whole, err := os.ReadFile(id)
	require.NoError(t, err)
	require.NoError(t, os.Remove(id))
	require.ErrorContains(t, alone(t, dir), "must not go on alone")
	require.ErrorContains(t, CheckAlone(dir, nil), "must not go on alone", "nor begins it a new store beside its certificate")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, Folder)))
	err = alone(t, dir)
	require.ErrorIs(t, err, ErrMember)

	require.NoError(t, os.Mkdir(filepath.Join(dir, Folder), 0o700))
	require.NoError(t, os.WriteFile(id, whole, 0o600))
	_, err = Leave(dir, time.Now())
	require.NoError(t, err)
	require.NoError(t, alone(t, dir), "whoever left may be alone")
	require.NoError(t, alone(t, t.TempDir()), "so may who never was a member")
}

// TestADamagedFolderSaysWhatToDo and changes nothing.
func TestADamagedFolderSaysWhatToDo(t *testing.T) {
	dir, _ := founded(t)
	for _, c := range []struct{ file, bytes, says string }{
		{"member.json", "", "erlmcp cluster join"},
		{"member.json", `{"name":"n1","advertise":"127.0.0.1:1`, "Put a copy of it back"},
		{"member.json", `{"name":"../n1","advertise":"127.0.0.1:1"}`, "erlmcp cluster join"},
		{"node.crt", "", "erlmcp cluster ca accept"},
		{"node.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "erlmcp cluster ca accept"},
		{"ca.crt", "x", "erlmcp cluster ca accept"},
	} {
		path := filepath.Join(dir, Folder, c.file)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(c.bytes), 0o600))
		_, err = Open(dir, Options{Engine: engineOptions()})
		require.ErrorIs(t, err, ErrMember, c.file)
		require.ErrorContains(t, err, c.says)
		require.ErrorContains(t, err, c.file)
		_, err = Mend(context.Background(), dir, engineOptions())
		require.ErrorContains(t, err, c.says)
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
}
