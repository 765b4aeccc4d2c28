package cluster

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/process"
)

// filesOf are the hashes of a directory's files, but for what every start and stop writes.
func filesOf(t *testing.T, dir string) map[string][32]byte {
	out := map[string][32]byte{}
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		out[path] = sha256.Sum256(raw)
		return err
	}))
	return out
}

// TestADamagedLogIsMendedFromTheOthers: bits flip and sectors vanish in a sealed segment of a stopped member; repair puts every byte
// back and touches nothing else.
func TestADamagedLogIsMendedFromTheOthers(t *testing.T) {
	f := newFleetOn(t, 3, nil, "--set", "storage.segment_size=128KiB", "--set", "storage.max_value_bytes=32KiB")
	end := f.load("mend", 6)
	victim := f.nodes[2]
	var segments []string
	f.wait("sealed segments", func() bool {
		segments, _ = filepath.Glob(filepath.Join(victim.dir, "wal", "*.seg"))
		return len(segments) > 4
	})
	end()
	f.check()
	f.stop(victim)
	sort.Strings(segments)
	sealed := segments[1]
	sound := filesOf(t, victim.dir)
	whole, err := os.ReadFile(sealed)
	require.NoError(t, err)
	repair := func() (int, string) {
		code, out, err := process.Command(t.Context(), binary, "cluster", "repair", "--data", victim.dir)
		require.NoError(t, err)
		return code, out
	}
	code, out := repair()
	require.Zero(t, code, out)
	require.Contains(t, out, "not damaged")

	// A work order's text in the middle, and a sector a little further on.
	at := bytes.Index(whole[len(whole)/4:], []byte("made by a test")) + len(whole)/4
	for name, harm := range map[string]func([]byte){
		"a flipped bit":   func(b []byte) { b[at] ^= 0x10 },
		"a zeroed sector": func(b []byte) { clear(b[at&^511 : at&^511+512]) },
		"both": func(b []byte) {
			b[at] ^= 0x10
			clear(b[(at+16384)&^511 : (at+16384)&^511+512])
		},
	} {
		damaged := bytes.Clone(whole)
		harm(damaged)
		require.NoError(t, os.WriteFile(sealed, damaged, 0o600))
		code, out := repair()
		require.Zero(t, code, "%s: %s", name, out)
		require.Contains(t, out, "the chain proves it", name)
		require.Equal(t, sound, filesOf(t, victim.dir), "%s: everything is as it was", name)
		t.Logf("%s: %s", name, out)
	}

	// What only this member had is not invented.
	require.NoError(t, os.Remove(sealed))
	without := filesOf(t, victim.dir)
	code, out = repair()
	require.NotZero(t, code)
	require.Contains(t, out, "fetches everything from another member")
	require.Equal(t, without, filesOf(t, victim.dir))
	f.start(victim) // and so it does
	f.check()
}
