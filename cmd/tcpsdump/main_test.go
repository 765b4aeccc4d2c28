package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/wal"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tcpsdump")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "tcpsdump")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// dump runs the real binary.
func dump(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return dumpEnv(t, nil, args...)
}

func dumpEnv(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errw bytes.Buffer
	c := exec.Command(binary, args...)
	c.Stdout, c.Stderr, c.Env = &out, &errw, append(os.Environ(), env...)
	err := c.Run()
	if err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		code = exit.ExitCode()
	}
	return out.String(), errw.String(), code
}

// fill makes a data directory with n changes and leaves it open or closed.
func fill(t *testing.T, o engine.Options, n int) (string, *engine.Store) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if o.SegmentSize == 0 {
		o.SegmentSize = 64 << 10
	}
	s, err := engine.Open(dir, o)
	require.NoError(t, err)
	for i := range n {
		_, err := s.Update(context.Background(), func(tx *engine.Tx) error {
			return tx.Put("work_orders", fmt.Appendf(nil, "WO-%04d", i%50), fmt.Appendf(nil, `{"id":"WO-%04d","n":%d}`, i%50, i))
		}, engine.WithActor("alice"), engine.WithLabel("create"))
		require.NoError(t, err)
	}
	return dir, s
}

func TestShowsWhoChangedWhatBesideARunningStore(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 100)
	defer s.Close()
	out, _, code := dump(t, "wal", dir, "--table", "work_orders", "--key", "WO-0007")
	require.Zero(t, code, out)
	require.Contains(t, out, `+ work_orders/WO-0007 = {"id":"WO-0007","n":57}`)
	require.Contains(t, out, "alice  create")
	require.NotContains(t, out, "WO-0008")
	require.Equal(t, 2, strings.Count(out, "+ work_orders/"))

	out, _, code = dump(t, "wal", dir, "--from", "10", "--to", "12", "--json", "--batches")
	require.Zero(t, code)
	kinds := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v), line)
		kinds[v["kind"].(string)]++
	}
	require.Equal(t, 3, kinds["change"])
	require.Equal(t, 1, kinds["summary"])
	require.Positive(t, kinds["batch"])

	out, _, code = dump(t, "chain", dir)
	require.Zero(t, code)
	require.Contains(t, out, "clean: log")
	out, _, code = dump(t, "chain", dir, "--json")
	require.Zero(t, code)
	require.True(t, json.Valid([]byte(out)))
}

func TestShowsTheStoredRows(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 100)
	_, err := s.Checkpoint()
	require.NoError(t, err)
	for _, running := range []bool{true, false} {
		out, stderr, code := dump(t, "store", dir, "--key", "WO-004*")
		require.Zero(t, code, stderr)
		require.Equal(t, 10, strings.Count(out, "work_orders/WO-004"))
		require.Contains(t, out, "state after log index 100")
		if running {
			require.NoError(t, s.Close())
		}
	}
	out, _, code := dump(t, "store", dir, "--summary", "--json")
	require.Zero(t, code)
	require.Contains(t, out, `"work_orders":{"bytes"`)
}

// damageRecord flips a bit of the record of a log index.
func damageRecord(t *testing.T, dir string, index uint64) {
	t.Helper()
	var file string
	var at int64
	_, err := wal.Inspect(vfs.Default, filepath.Join(dir, "wal"), wal.InspectOptions{}, wal.Visitor{Record: func(r wal.RecordInfo) error {
		if r.Entry.Index == index {
			file, at = fmt.Sprintf("%016x.seg", r.Segment), r.Offset
		}
		return nil
	}})
	require.NoError(t, err)
	f, err := os.OpenFile(filepath.Join(dir, "wal", file), os.O_RDWR, 0)
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at+40)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, at+40)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestALetterAboutADamagedLog(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 100)
	require.NoError(t, s.Close())
	damageRecord(t, dir, 60)
	before := listing(t, dir)
	out, _, code := dump(t, "chain", dir)
	require.Equal(t, exitDamage, code, out)
	for _, want := range []string{"DAMAGE 1 of 1", "bad-batch", "index 1 to 59", "no row is lost", "cp -a", "next"} {
		require.Contains(t, out, want)
	}
	out, _, code = dump(t, "wal", dir)
	require.Equal(t, exitDamage, code)
	require.Equal(t, 99, strings.Count(out, "+ work_orders/"), "everything but the damaged change is shown")
	require.Contains(t, out, "DAMAGED")
	require.Equal(t, before, listing(t, dir), "a forensic tool changes nothing")

	_, err := engine.Open(dir, engine.Options{})
	require.ErrorIs(t, err, engine.ErrCorrupt)
}

func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		out[p] = string(b)
		return err
	}))
	return out
}

func TestALostStoreIsNamed(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 20)
	require.NoError(t, s.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "store")))
	out, stderr, code := dump(t, "chain", dir)
	require.Equal(t, exitDamage, code, stderr)
	require.Contains(t, out, "store-unreadable")
	_, stderr, code = dump(t, "store", dir)
	require.Equal(t, exitDamage, code)
	require.Contains(t, stderr, "tcpsdump chain")
}

func TestALogBehindItsStoreIsNamed(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 50)
	require.NoError(t, s.Close())
	other, o := fill(t, engine.Options{}, 3)
	require.NoError(t, o.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "wal")))
	require.NoError(t, os.Rename(filepath.Join(other, "wal"), filepath.Join(dir, "wal")))
	out, _, code := dump(t, "chain", dir)
	require.Equal(t, exitDamage, code, out)
	require.Contains(t, out, "log-behind-store")
}

func TestUsageAndUnreadableInput(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 3)
	require.NoError(t, s.Close())
	for _, tc := range []struct {
		args []string
		code int
		say  string
	}{
		{[]string{"wal"}, exitUsage, "accepts 1 arg"},
		{[]string{"nonsense"}, exitUsage, "unknown command"},
		{[]string{"wal", dir, "--nonsense"}, exitUsage, "unknown flag"},
		{[]string{"wal", dir, "--from", "9", "--to", "2"}, exitUsage, "below --from"},
		{[]string{"wal", "/does/not/exist"}, exitDamage, "no such file"},
		{[]string{"chain", t.TempDir()}, exitDamage, "not a log"},
		{[]string{"store", t.TempDir()}, exitDamage, "not"},
		{[]string{"wal", dir, "--key-file", "/does/not/exist"}, exitDamage, "key file"},
	} {
		_, stderr, code := dump(t, tc.args...)
		require.Equal(t, tc.code, code, "%v: %s", tc.args, stderr)
		require.Contains(t, stderr, tc.say, "%v", tc.args)
	}
}

func TestEncryptedDirectory(t *testing.T) {
	key := bytes.Repeat([]byte{9}, 32)
	dir, s := fill(t, engine.Options{Key: key}, 30)
	require.NoError(t, s.Close())
	out, _, code := dump(t, "chain", dir)
	require.Zero(t, code, out)
	require.Contains(t, out, "encrypted")
	require.NotContains(t, out, "alice")
	env := []string{"ERLMCP_DATA_KEY=" + strings.Repeat("09", 32)}
	out, _, code = dumpEnv(t, env, "wal", dir)
	require.Zero(t, code)
	require.Contains(t, out, "alice")
	_, stderr, code := dumpEnv(t, []string{"ERLMCP_DATA_KEY=" + strings.Repeat("08", 32)}, "wal", dir)
	require.Equal(t, exitDamage, code)
	require.Contains(t, stderr, "wrong key")
}

func TestArbitraryFilesNeverPanic(t *testing.T) {
	dir, s := fill(t, engine.Options{}, 30)
	require.NoError(t, s.Close())
	names, err := filepath.Glob(filepath.Join(dir, "wal", "*"))
	require.NoError(t, err)
	for _, name := range names {
		for _, junk := range [][]byte{nil, []byte("junk"), bytes.Repeat([]byte{0xff}, 70_000)} {
			old, err := os.ReadFile(name)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(name, junk, 0o644))
			for _, cmd := range []string{"wal", "chain"} {
				_, stderr, code := dump(t, cmd, dir)
				require.NotEqual(t, 2, code, "%s", stderr)
				require.NotContains(t, stderr, "goroutine", "panic on %s", name)
			}
			require.NoError(t, os.WriteFile(name, old, 0o644))
		}
	}
}
