package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/ops/backup"
)

// vault is a repository with a key file, and a place for the directories of a test.
type vault struct {
	t         *testing.T
	base      string
	repo, key string
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, base: t.TempDir()}
	v.repo, v.key = filepath.Join(v.base, "repo"), filepath.Join(v.base, "key")
	raw := make([]byte, 32)
	_, err := rand.Read(raw)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(v.key, []byte(hex.EncodeToString(raw)+"\n"), 0o600))
	v.must("backup", "init")
	return v
}

// args adds the repository.
func (v *vault) args(args ...string) []string {
	return append(args, "--repo", v.repo, "--key-file", v.key)
}

// must runs a command on the repository that succeeds.
func (v *vault) must(args ...string) result {
	v.t.Helper()
	r := run(v.t, v.args(args...)...)
	require.Zero(v.t, r.code, "%v: %s%s", args, r.stdout, r.stderr)
	return r
}

// result runs a long command with --json and decodes its result.
func (v *vault) result(into any, args ...string) {
	v.t.Helper()
	decodeResult(v.t, v.must(append(args, "--json")...), into)
}

// decodeResult reads the last line of a long command with --json.
func decodeResult(t *testing.T, r result, into any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	line := struct {
		Event  string `json:"event"`
		Result any    `json:"result"`
	}{Result: into}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &line), r.stdout)
	require.Equal(t, "result", line.Event)
}

func (v *vault) dir(name string) string { return filepath.Join(v.base, name) }

// load makes work orders on a server until stop is called; it returns how many were acknowledged.
func load(t *testing.T, s *server, clients int) (stop func() int) {
	t.Helper()
	var all sync.WaitGroup
	var acked atomic.Int64
	end := make(chan struct{})
	for c := range clients {
		all.Go(func() {
			web := &http.Client{Transport: &http.Transport{}, Timeout: patience}
			defer web.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
				}
				if _, err := callRaw(web, s.run.MCPURL, order(fmt.Sprintf("load-%d-%d-%s", c, i, t.Name()))); err != nil {
					t.Errorf("a write was refused: %v", err)
					return
				}
				acked.Add(1)
			}
		})
	}
	stop = sync.OnceValue(func() int { close(end); all.Wait(); return int(acked.Load()) })
	t.Cleanup(func() { stop() })
	return stop
}

func order(source string) change {
	return change{tool: "work_order_create", args: map[string]any{
		"signal": map[string]any{"type": "internal_request", "source": source, "description": "made by a test"},
		"bucket": "features", "idempotency_key": source,
	}}
}

// some makes n work orders.
func some(t *testing.T, s *server, name string, n int) {
	t.Helper()
	for i := range n {
		_, err := callRaw(http.DefaultClient, s.run.MCPURL, order(fmt.Sprintf("%s-%d", name, i)))
		require.NoError(t, err)
	}
}

func status(t *testing.T, dir string) (s admin.Status) {
	t.Helper()
	r := run(t, "status", "--json", "--data", dir)
	require.Zero(t, r.code, r.stderr)
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &s))
	return s
}

func TestBackupsOfALoadedServerRestoreToExactlyTheirState(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "before", 20)
	stop := load(t, s, 4)
	var made []backup.Created
	for _, kind := range []string{"full", "incremental", "auto", "full"} {
		var c backup.Created
		v.result(&c, "backup", "create", "--data", data, "--type", kind)
		made = append(made, c)
	}
	require.NotZero(t, stop())
	require.Less(t, made[0].Index, made[3].Index, "writes went on while the backups were made")
	require.Equal(t, []string{"full", "incremental", "incremental", "full"}, []string{made[0].Type, made[1].Type, made[2].Type, made[3].Type})

	require.Zero(t, s.stop())
	var last backup.Created
	v.result(&last, "backup", "create", "--data", data)
	still := status(t, data)
	require.Equal(t, still.Store.AppliedIndex, last.Index)
	require.Equal(t, still.Store.StateHash, last.StateHash)

	for i, c := range append(made, last) {
		dir := v.dir(fmt.Sprintf("restored-%d", i))
		var d restoredDoc
		v.result(&d, "backup", "restore", fmt.Sprint(c.Backup), "--to", dir)
		require.Equal(t, c.Index, d.Index)
		require.Equal(t, c.StateHash, d.StateHash)
		require.True(t, d.Proven)
		require.Zero(t, run(t, "verify", "--data", dir).code)
	}
	// From a backup and the log behind it, to where a later backup was made: its recorded hash is the judge.
	var d restoredDoc
	v.result(&d, "backup", "restore", "--at-index", fmt.Sprint(last.Index-3), "--to", v.dir("between"))
	require.Equal(t, last.Index-3, d.Index)
	v.result(&d, "backup", "restore", "--to", v.dir("newest"))
	require.Equal(t, last.StateHash, d.StateHash)
	again := start(t, v.dir("newest"))
	some(t, again, "after", 1)
}

func TestABackupUnderLoadIsTheStateAtItsIndexAndNoOther(t *testing.T) {
	v := newVault(t)
	log := &vault{t: t, base: v.base, repo: v.dir("log"), key: v.key} // has a backup from before the load and one from after it, and the log between
	log.must("backup", "init")
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "before", 5)
	var first, during backup.Created
	log.result(&first, "backup", "create", "--data", data)
	stop := load(t, s, 4)
	require.Eventually(t, func() bool { return status(t, data).Store.AppliedIndex > first.Index+20 }, patience, time.Millisecond)
	v.result(&during, "backup", "create", "--data", data)
	require.NotZero(t, stop())
	some(t, s, "after", 1)
	log.must("backup", "create", "--data", data)

	// Two ways that have nothing in common give the same state: the rows that were read under load, and the log, replayed.
	var rows, replayed restoredDoc
	v.result(&rows, "backup", "restore", fmt.Sprint(during.Backup), "--to", v.dir("rows"))
	require.Equal(t, during.StateHash, rows.StateHash)
	log.result(&replayed, "backup", "restore", "--at-index", fmt.Sprint(during.Index), "--to", v.dir("replayed"))
	require.Equal(t, during.Index-first.Index, replayed.Entries, "all of it came from the log")
	require.Equal(t, during.StateHash, replayed.StateHash)
	log.result(&replayed, "backup", "restore", "--at-index", fmt.Sprint(during.Index-1), "--to", v.dir("one-less"))
	require.NotEqual(t, during.StateHash, replayed.StateHash)
}

func TestAStoppedDirectoryIsBackedUpWithoutAServer(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 5)
	require.Zero(t, s.stop())
	before := status(t, data)
	var c, same backup.Created
	v.result(&c, "backup", "create", "--data", data)
	require.Equal(t, before.Store.StateHash, c.StateHash)
	v.result(&same, "backup", "create", "--data", data)
	require.True(t, same.Unchanged)
	require.Equal(t, c.Backup, same.Backup)

	r := run(t, v.args("backup", "create", "--data", v.dir("nothing"))...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "there is no store in this directory")
	require.NoDirExists(t, v.dir("nothing"), "a backup makes no empty store")
}

func TestRestoreGoesToATimeBetweenBackups(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 3)
	v.must("backup", "create", "--data", data)
	some(t, s, "b", 3)
	want := status(t, data).Store
	var moment time.Time
	for again := want; ; want = again { // how the calls ended is stored a moment after them
		time.Sleep(5 * time.Millisecond) // entries have times in whole milliseconds
		moment = time.Now().UTC()
		time.Sleep(200 * time.Millisecond)
		if again = status(t, data).Store; again.AppliedIndex == want.AppliedIndex {
			break
		}
	}
	some(t, s, "accident", 3)
	v.must("backup", "create", "--data", data)
	var d restoredDoc
	v.result(&d, "backup", "restore", "--at-time", moment.Format(time.RFC3339Nano), "--to", v.dir("then"))
	require.Equal(t, want.AppliedIndex, d.Index)
	require.Equal(t, want.StateHash, d.StateHash)

	r := run(t, v.args("backup", "restore", "--at-index", "999999", "--to", v.dir("never"))...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "everything stored ends at index")
	require.NoDirExists(t, v.dir("never"))
}

func TestAWrongPassphraseIsOneClearErrorEverywhere(t *testing.T) {
	base := t.TempDir()
	repo, data := filepath.Join(base, "repo"), filepath.Join(base, "data")
	s := start(t, data)
	right, wrong := environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY=the right passphrase"), environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY=canary-secret-77")
	require.Zero(t, runEnv(t, right, "backup", "init", "--repo", repo).code)
	require.Zero(t, runEnv(t, right, "backup", "create", "--repo", repo, "--data", data).code)
	for _, args := range [][]string{
		{"backup", "create", "--data", data},
		{"backup", "list"},
		{"backup", "show", "latest"},
		{"backup", "verify"},
		{"backup", "restore", "--to", filepath.Join(base, "to")},
		{"backup", "prune"},
		{"backup", "keys", "rotate"},
		{"drill"},
	} {
		r := runEnv(t, wrong, append(args, "--repo", repo)...)
		require.Equal(t, 1, r.code, args)
		require.Equal(t, "erlmcp: backup: wrong passphrase or key file\ngive the passphrase in ERLMCP_BACKUP_ENCRYPTION_KEY, or the key file with --key-file, that opens "+
			repo+"; nothing was changed\n", r.stderr, args)
		require.Empty(t, r.stdout, args)
		r = run(t, append(args, "--repo", repo)...)
		if strings.Join(args, " ") != "backup verify" { // a scrub needs no key
			require.Equal(t, 1, r.code, args)
			require.Contains(t, r.stderr, "a passphrase or key file is required\nput it into ERLMCP_BACKUP_ENCRYPTION_KEY", args)
		}
	}
	require.NoDirExists(t, filepath.Join(base, "to"))
	require.NotContains(t, s.stderr.String(), "canary-secret-77")
}

func TestEncryptionIsOnlyLeftOutWhenThatIsSaidAloud(t *testing.T) {
	base := t.TempDir()
	repo := filepath.Join(base, "repo")
	r := run(t, "backup", "init", "--repo", repo)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "to make a repository that anybody can read, say --no-encryption")
	require.NoDirExists(t, repo)
	require.Zero(t, run(t, "backup", "init", "--repo", repo, "--no-encryption").code)
	r = run(t, "backup", "list", "--repo", repo)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "say --no-encryption")
	r = run(t, "backup", "list", "--repo", repo, "--no-encryption")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "NOT encrypted")
	r = run(t, "backup", "init", "--repo", repo, "--no-encryption")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "repository exists already")
}

func TestRestoreTouchesNothingThatIsThere(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 3)
	v.must("backup", "create", "--data", data)
	some(t, s, "b", 3)

	full := v.dir("full")
	require.NoError(t, os.MkdirAll(full, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(full, "mine"), []byte("x"), 0o600))
	r := run(t, v.args("backup", "restore", "--to", full)...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "is not empty; nothing was changed")
	require.Equal(t, []string{"mine"}, names(t, full))

	r = run(t, v.args("backup", "restore", "--in-place", "--data", data)...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "a server runs on "+data+": stop it first; nothing was changed")

	require.Zero(t, s.stop())
	old := status(t, data).Store
	var d restoredDoc
	v.result(&d, "backup", "restore", "--in-place", "--data", data)
	require.Equal(t, data, d.Dir)
	require.NotEqual(t, old.StateHash, status(t, data).Store.StateHash)
	require.Equal(t, old.StateHash, status(t, d.Aside).Store.StateHash, "the old state is kept aside")
	require.Zero(t, run(t, "verify", "--data", data).code)
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestADamagedRepositoryIsNamedAndRefusedBeforeAnythingIsTouched(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 60)
	v.must("backup", "create", "--data", data)
	sound := v.must("backup", "verify", "--read-data")
	require.Contains(t, sound.stdout, "Sound. 1 backups")

	packs, err := filepath.Glob(filepath.Join(v.repo, "packs", "*", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, packs)
	good, err := os.ReadFile(packs[0])
	require.NoError(t, err)
	require.NoError(t, os.Chmod(packs[0], 0o600))

	// A little damage: parity restores it in memory during a restore, and in the repository by repair.
	bad := bytes.Clone(good)
	bad[len(bad)/3] ^= 0x40
	require.NoError(t, os.WriteFile(packs[0], bad, 0o600))
	r := run(t, "backup", "verify", "--read-data", "--repo", v.repo)
	require.Equal(t, exitHealable, r.code, r.stdout)
	require.Contains(t, r.stdout, "nothing is lost: `erlmcp backup repair` restores it")
	v.must("backup", "restore", "--to", v.dir("healed"))
	require.Contains(t, v.must("backup", "repair").stdout, "RESTORED")
	now, err := os.ReadFile(packs[0])
	require.NoError(t, err)
	require.Equal(t, good, now)

	// Too much.
	clear(bad[len(bad)/4:])
	require.NoError(t, os.WriteFile(packs[0], bad, 0o600))
	r = run(t, v.args("backup", "verify", "--read-data")...)
	require.Equal(t, 1, r.code, r.stdout)
	require.Contains(t, r.stdout, "cannot be restored because of it: backups [1]")
	for _, where := range []string{"new", "healed"} {
		before := status(t, v.dir("healed")).Store
		args := []string{"backup", "restore", "--to", v.dir(where)}
		if where == "healed" {
			args = []string{"backup", "restore", "--in-place", "--data", v.dir(where)}
		}
		r = run(t, v.args(args...)...)
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "not restored, "+v.dir(where)+" is as it was: backup: damaged: packs/")
		require.Contains(t, r.stderr, "names everything that is damaged and what it costs")
		require.Equal(t, before, status(t, v.dir("healed")).Store)
	}
	require.NoDirExists(t, v.dir("new"))
	require.Equal(t, []string{"data", "healed", "key", "repo"}, names(t, v.base), "nothing is left behind")
	r = run(t, v.args("drill")...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stdout, "THE DRILL FAILED")
	require.Equal(t, 1, run(t, v.args("drill", "--last")...).code, "the failure is on record")
}

func TestAKilledBackupNeedsNoUnlock(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 200)
	require.Zero(t, s.stop())
	// Slow enough to be caught in the middle, whatever the machine.
	p := launch(t, environment(t), v.args("backup", "create", "--data", data, "--limit-rate", "2KiB")...)
	require.Eventually(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(v.repo, "sessions", "*"))
		return len(files) > 0
	}, patience, time.Millisecond)
	p.kill()
	require.Contains(t, v.must("backup", "list").stdout, "no backups yet")
	var c backup.Created
	v.result(&c, "backup", "create", "--data", data)
	require.Equal(t, "full", c.Type)
	v.must("backup", "prune")
	v.must("backup", "prune")
	require.Empty(t, names(t, filepath.Join(v.repo, "sessions")), "what the killed one left is gone after two prunes")
	require.Contains(t, v.must("backup", "verify", "--read-data").stdout, "Sound. 1 backups")

	// A server that dies in the middle is no different.
	s = start(t, data)
	some(t, s, "b", 200)
	client := launch(t, environment(t), v.args("backup", "create", "--type", "full", "--data", data, "--limit-rate", "2KiB")...)
	require.Eventually(t, func() bool { return strings.Contains(s.stderr.String(), "backup begins") }, patience, time.Millisecond)
	s.kill()
	require.Equal(t, 1, client.wait())
	require.Contains(t, client.stderr.String(), "what was stored before is not harmed")
	v.result(&c, "backup", "create", "--data", data)
	require.Equal(t, "incremental", c.Type)
	v.must("backup", "restore", "--to", v.dir("restored"))
}

func TestCtrlCEndsABackupOfAServerWhichGoesOn(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	some(t, s, "a", 100)
	client := launch(t, environment(t), v.args("backup", "create", "--data", data, "--limit-rate", "1KiB")...)
	require.Eventually(t, func() bool { return strings.Contains(s.stderr.String(), "backup begins") }, patience, time.Millisecond)
	require.NoError(t, client.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 1, client.wait())
	require.Contains(t, client.stderr.String(), "interrupted: nothing that was stored before is harmed")
	require.Eventually(t, func() bool { return strings.Contains(s.stderr.String(), "backup failed") }, patience, time.Millisecond, "the server stops too")
	some(t, s, "b", 1)
	v.must("backup", "create", "--data", data)
}

func TestKeysRotatePruneConsolidateAndCopyWorkTogether(t *testing.T) {
	v := newVault(t)
	data := v.dir("data")
	s := start(t, data)
	var hash string
	for i := range 4 {
		some(t, s, fmt.Sprint("round", i), 5)
		var c backup.Created
		v.result(&c, "backup", "create", "--data", data, "--label", fmt.Sprint("round ", i))
		hash = c.StateHash
		v.must("backup", "keys", "rotate")
	}
	require.Contains(t, v.must("backup", "keys", "list").stdout, "epoch 5")
	r := runEnv(t, environment(t, "ERLMCP_BACKUP_NEW_ENCRYPTION_KEY=a second way in"), v.args("backup", "keys", "add", "--label", "deputy")...)
	require.Zero(t, r.code, r.stderr)
	deputy := environment(t, "ERLMCP_BACKUP_ENCRYPTION_KEY=a second way in")
	require.Contains(t, runEnv(t, deputy, "backup", "list", "--repo", v.repo).stdout, "round 3")

	var full backup.Created
	v.result(&full, "backup", "consolidate")
	require.Equal(t, "full", full.Type)
	require.Equal(t, hash, full.StateHash)
	var p pruned
	v.result(&p, "backup", "prune", "--keep-hourly", "0", "--keep-daily", "0", "--dry-run")
	require.Equal(t, []uint64{1, 2, 3, 4}, p.Removed)
	v.result(&p, "backup", "prune", "--keep-hourly", "0", "--keep-daily", "0")
	require.Equal(t, []uint64{full.Backup}, p.Kept)
	require.NotNil(t, p.Repack)
	require.NotZero(t, p.Repack.Stored)
	require.Contains(t, v.must("backup", "prune", "--max-unused", "1%").stdout, "packs hold")

	v.must("backup", "copy", "--to", v.dir("copy"))
	require.Contains(t, v.must("backup", "copy", "--to", v.dir("copy")).stdout, "copied 0 objects")
	var d restoredDoc
	c := &vault{t: t, base: v.base, repo: v.dir("copy"), key: v.key}
	c.result(&d, "backup", "restore", "latest", "--to", v.dir("from-copy"))
	require.Equal(t, hash, d.StateHash)
	require.Contains(t, v.must("drill").stdout, "The backups restore")
	require.Contains(t, v.must("drill", "--last").stdout, "The backups restore")
}

func TestBackupCommandsRefuseWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"backup", "creat"},
		{"backup", "list"},
		{"backup", "list", "--repo", "ftp://x"},
		{"backup", "list", "--repo", "s3://key:secret@bucket/x"},
		{"backup", "list", "--repo", "s3://bucket?endpint=x"},
		{"backup", "show", "twelve", "--repo", "x"},
		{"backup", "create", "--type", "differential", "--repo", "x"},
		{"backup", "restore", "--repo", "x"},
		{"backup", "restore", "--repo", "x", "--to", "a", "--in-place"},
		{"backup", "restore", "3", "--at-index", "4", "--to", "x", "--repo", "x"},
		{"backup", "restore", "--at-time", "yesterday", "--to", "x", "--repo", "x"},
		{"backup", "verify", "--budget", "2", "--read-data", "--repo", "x"},
		{"backup", "verify", "--budget", "2%", "--repo", "x"},
		{"backup", "prune", "--keep-last", "0", "--repo", "x"},
		{"backup", "prune", "--max-unused", "lots", "--repo", "x"},
		{"backup", "copy", "--repo", "x"},
		{"backup", "list", "--repo", "x", "--no-encryption", "--key-file", "y"},
		{"backup", "list", "--repo", "x", "--key-file", "/nowhere/key"},
		{"backup", "list", "--repo", "x", "--limit-rate", "fast"},
		{"backup", "init", "--repo", "x", "--kdf", "md5", "--no-encryption"},
		{"drill", "--repo", "x", "extra", "extra"},
	} {
		r := run(t, args...)
		require.Equal(t, 2, r.code, "%v: %s", args, r.stderr)
		require.Empty(t, r.stdout, args)
		require.NotContains(t, r.stderr, "secret@", args)
	}
}

func TestEveryBackupCommandHasAManual(t *testing.T) {
	a := &app{}
	for _, cmd := range a.backupCommand().Commands() {
		require.NotEmpty(t, cmd.Long, cmd.Name())
		require.NotEmpty(t, cmd.Example, cmd.Name())
		if cmd.Name() != "keys" {
			require.Contains(t, cmd.Long, "Exit codes:", cmd.Name())
		}
		r := run(t, "backup", cmd.Name(), "--help")
		require.Zero(t, r.code)
		require.NotContains(t, r.stdout, " string ", cmd.Name())
	}
}

func itoa(n uint64) string { return fmt.Sprint(n) }
