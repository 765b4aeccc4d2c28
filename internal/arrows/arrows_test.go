package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// list asks the Go tool for the packages of this module and the imports of their non-test files.
func list(t *testing.T) []Package {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list: %s", stderr.String())
	var pkgs []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else {
			require.NoError(t, err)
		}
		pkgs = append(pkgs, Package{Path: p.ImportPath, Imports: p.Imports})
	}
}

func TestImportsPointDown(t *testing.T) {
	pkgs := list(t)
	require.NotEmpty(t, pkgs)
	for _, v := range Check(pkgs) {
		t.Errorf("%s", v)
	}
}

func TestCheckNamesEveryKindOfWrongImport(t *testing.T) {
	const m = Module + "/"
	for _, tc := range []struct {
		from, to string
		rule     string // "" = allowed
	}{
		{"engine", m + "wal", ""},
		{"engine", m + "internal/clock", ""},
		{"cmd/erlmcp", m + "mcp", ""},
		{"cmd/erlmcp", m + "cmd/erlmcp/internal/node", ""},
		{"mcp/tcpstools", m + "mcp", ""},
		{"mcp/tcpstools", m + "tcps", ""},
		{"mcp", m + "mcp/wire", ""},
		{"internal/a", m + "internal/b", ""},
		{"fuzz", m + "engine", ""},
		{"wal", "fmt", ""},
		{"replication", "github.com/hashicorp/raft", ""},

		{"wal", m + "engine", "imports must point to a lower layer"},
		{"engine", m + "replication", "imports must point to a lower layer"},
		{"engine", m + "config", "imports must point to a lower layer"},
		{"internal/clock", m + "wal", "imports must point to a lower layer"},
		{"mcp", m + "mcp/tcpstools", "imports must point to a lower layer"},
		{"tcps", m + "fuzz", "imports must point to a lower layer"},
		{"mcp", m + "tcps", "packages of one layer must not know each other"},
		{"snapshot", m + "engine", "packages of one layer must not know each other"},
		{"cmd/tcpsdump", m + "cmd/erlmcp/internal/node", "packages of one layer must not know each other"},
		{"wal", m + "newthing", "has no layer: enter it in internal/arrows/rules.go"},
		{"engine", "github.com/hashicorp/raft", "only replication may use github.com/hashicorp/raft"},
		{"tcps", "github.com/modelcontextprotocol/go-sdk/mcp", "only mcp, cmd/erlmcp, test may use github.com/modelcontextprotocol/go-sdk"},
		{"engine", "github.com/stretchr/testify/require", "only fuzz, test may use github.com/stretchr/testify"},
	} {
		got := Check([]Package{{Path: m + tc.from, Imports: []string{tc.to}}})
		if tc.rule == "" {
			require.Empty(t, got, "%s -> %s", tc.from, tc.to)
			continue
		}
		require.Len(t, got, 1, "%s -> %s", tc.from, tc.to)
		require.Equal(t, tc.rule, got[0].Rule)
		require.Contains(t, got[0].String(), tc.from+" imports ")
	}
}

func TestCheckRefusesPackagesWithoutALayer(t *testing.T) {
	got := Check([]Package{{Path: Module + "/misc"}, {Path: "example.com/other"}, {Path: Module}})
	require.Len(t, got, 2)
	require.Equal(t, "example.com/other: is not a package of this module", got[0].String())
	require.Equal(t, "misc: has no layer: enter it in internal/arrows/rules.go", got[1].String())
}
