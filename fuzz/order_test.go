package fuzz

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/fuzz/simdisk"
)

// TestARetiredFileIsRenamedWipedAndNamedInThatOrder holds the disk operations
// of every script against the order that docs/format.md gives: the name of a
// retired file is durable before its header is wiped, and the wipe is durable
// before the file gets the name of a segment to come.
func TestARetiredFileIsRenamedWipedAndNamedInThatOrder(t *testing.T) {
	reused := 0
	for seed := uint64(1); seed <= 3; seed++ {
		for _, s := range scripts {
			h, err := record(config(s.name, seed), s.run)
			require.NoError(t, err)
			n, err := reuseInOrder(h.trace)
			require.NoError(t, err, "script %s, seed %d", s.name, seed)
			reused += n
		}
	}
	require.Greater(t, reused, 10, "files were reused")
}

// reuseInOrder returns how many spare files became segments.
func reuseInOrder(trace *simdisk.Trace) (reused int, err error) {
	const (
		renamed = iota + 1 // the name of a spare, perhaps not durable
		named
		wiped // header zeroed, perhaps not durable
		clean
	)
	state := map[string]int{} // of spare files by name
	spare := func(name string) bool { return strings.HasSuffix(name, ".spare") }
	for i := range trace.Len() {
		op := trace.Op(i)
		file := path.Base(op.Path)
		switch {
		case op.Kind == simdisk.OpRename && spare(op.New):
			state[path.Base(op.New)] = renamed
		case op.Kind == simdisk.OpDirSync:
			for name, st := range state {
				if st == renamed && op.Path == logDir {
					state[name] = named
				}
			}
		case op.Kind == simdisk.OpWrite && spare(file):
			if state[file] != named {
				return reused, fmt.Errorf("operation %d (%s): the file is wiped before its name is durable", i, op)
			}
			if op.Off != 0 || op.Len < 4096 {
				return reused, fmt.Errorf("operation %d (%s): not the whole header is wiped", i, op)
			}
			state[file] = wiped
		case op.Kind == simdisk.OpSync && spare(file) && state[file] == wiped:
			state[file] = clean
		case op.Kind == simdisk.OpRename && spare(file):
			if state[file] != clean {
				return reused, fmt.Errorf("operation %d (%s): the file is named before its wipe is durable", i, op)
			}
			delete(state, file)
			reused++
		}
	}
	return reused, nil
}
