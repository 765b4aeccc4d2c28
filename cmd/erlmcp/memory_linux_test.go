package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/engine"
)

// mostOfAnything is what a command may take, whatever the size of the store (Linux: peak resident memory as the kernel counts it).
const mostOfAnything = 256 << 20

// bulk fills a directory with rows that compress about 3:1, as ledgers do: mib in keys and values, or n changes spread over what is there.
func bulk(t *testing.T, dir string, rng *rand.Rand, mib, changes, rows int) int {
	t.Helper()
	s, err := engine.Open(dir, engine.Options{})
	require.NoError(t, err)
	words, text := []string{"steel", "order", "machine", "shift", "quality", "pallet"}, []byte(nil)
	for len(text) < 4<<20 {
		text = fmt.Appendf(text, "%s-%d ", words[rng.IntN(len(words))], rng.IntN(100000))
	}
	for size, n := 0, 0; size < mib<<20 || changes > 0; n++ {
		how := engine.Async // but for some, so that not too much is waiting
		if n%32 == 0 {
			how = engine.Sync
		}
		_, err := s.Update(t.Context(), func(tx *engine.Tx) error {
			for range 500 {
				i := rows
				if mib > 0 {
					rows++
				} else {
					i = rng.IntN(rows)
					changes--
				}
				v := fmt.Appendf(nil, `{"id":"rec-%08d","owner":"user-%04d","body":"`, i, rng.IntN(5000))
				at := rng.IntN(len(text) - 2000)
				v = append(v, text[at:at+200+rng.IntN(1600)]...)
				size += len(v) + 20
				if err := tx.Put("records", fmt.Appendf(nil, "rec-%010d", i), append(v, `"}`...)); err != nil {
					return err
				}
			}
			return nil
		}, engine.WithDurability(how))
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	return rows
}

// TestBackupsOfAnySizeTakeLittleMemory measures the real program. ERLMCP_TEST_BACKUP_MIB says how large the store is (make backup-memory: 2048); without
// it a small one shows that the path works.
func TestBackupsOfAnySizeTakeLittleMemory(t *testing.T) {
	mib := 4
	if text := os.Getenv("ERLMCP_TEST_BACKUP_MIB"); text != "" {
		var err error
		mib, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	v := newVault(t)
	data := v.dir("data")
	rng := rand.New(rand.NewPCG(10, 1))
	rows := bulk(t, data, rng, mib, 0, 0)
	t.Logf("%d MiB of rows, %d rows", mib, rows)
	measure := func(most int64, args ...string) {
		t.Helper()
		cmd := exec.Command(binary, v.args(args...)...)
		cmd.Env = environment(t)
		began := time.Now()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		peak, err := peakMemory(cmd.Process.Pid, ended)
		require.NoError(t, err, "%v: %s", args, out.Bytes())
		t.Logf("%-44v %7.1f s  peak %4d MiB", args[:min(len(args), 4)], time.Since(began).Seconds(), peak>>20)
		if most > 0 {
			require.LessOrEqual(t, peak, most, "%v", args)
		}
	}
	measure(mostOfAnything, "backup", "create", "--type", "full", "--data", data)
	bulk(t, data, rng, 0, max(rows/50, 1000), rows)
	measure(mostOfAnything, "backup", "create", "--type", "incremental", "--data", data)
	measure(mostOfAnything, "backup", "create", "--type", "full", "--data", data)
	require.NoError(t, os.RemoveAll(data))
	measure(mostOfAnything, "backup", "verify", "--read-data")
	measure(mostOfAnything, "backup", "consolidate", "2")
	measure(mostOfAnything, "backup", "prune")
	measure(mostOfAnything, "backup", "restore", "latest", "--to", v.dir("restored"))
	measure(mostOfAnything, "backup", "copy", "--to", v.dir("copy"))
	require.NoError(t, os.RemoveAll(v.dir("copy")))
	measure(mostOfAnything, "backup", "keys", "rekey", "--same-secret")
}

// peakMemory looks at the peak of a process until it ends, and returns the last one seen with how it ended. What wait4(2) says will not do: it counts
// what the test itself held before the program was executed.
func peakMemory(pid int, ended <-chan error) (peak int64, err error) {
	for {
		select {
		case err := <-ended:
			return peak, err
		case <-time.After(5 * time.Millisecond):
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(string(raw)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
				peak = kib << 10
			}
		}
	}
}
