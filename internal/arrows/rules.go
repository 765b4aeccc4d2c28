package arrows

import (
	"fmt"
	"sort"
	"strings"
)

// Module is the import path of the project.
const Module = "github.com/erlmcp/erlmcp"

// layers gives each folder its height. The longest matching folder decides, so that mcp/tcpstools may stand above mcp.
var layers = map[string]int{
	"internal": 0, // leaf packages: they import nothing of the project but each other
	"wal":      1,
	"engine":   2, "snapshot": 2,
	"replication": 3, "backupfmt": 3, "forensic": 3,
	"mcp": 4, "tcps": 4, "ops": 4, "cdc": 4,
	"mcp/tcpstools":   5, // joins the protocol and the ledger
	"mcp/backuptools": 5, // joins the protocol and the backups
	"config":          5, // read by the commands only: no library depends on how a process is configured
	"cmd":             6,
	"fuzz":            7, "test": 7, // test programs: they may use everything, nothing may use them
	"mcp/conformance": 7,
	"fuzz/simdisk":    0, // a file system, usable by the tests of every layer
}

// vendors lists third-party modules that only some folders may import: who owns which dependency. A module that is not
// listed may be used anywhere.
var vendors = map[string][]string{
	"github.com/hashicorp/raft":              {"replication"},
	"github.com/modelcontextprotocol/go-sdk": {"mcp", "cmd/erlmcp", "test"},
	"github.com/spf13/cobra":                 {"cmd"},
	"github.com/spf13/pflag":                 {"cmd"},
	"github.com/goccy/go-yaml":               {"config"},
	"github.com/prometheus":                  {"cmd", "ops"},
	"github.com/stretchr/testify":            {"fuzz", "test"}, // everywhere else: in test files
	"net/http":                               {"mcp", "ops", "cdc", "replication", "backupfmt", "cmd", "fuzz", "test", "internal"},
}

// Package is one package with the imports of its non-test files.
type Package struct {
	Path    string
	Imports []string
}

// Violation is an import that breaks a rule.
type Violation struct {
	From, To string
	Rule     string
}

// String renders the violation as one line.
func (v Violation) String() string {
	if v.To == "" {
		return fmt.Sprintf("%s: %s", v.From, v.Rule)
	}
	return fmt.Sprintf("%s imports %s: %s", v.From, v.To, v.Rule)
}

// Check returns every broken rule, ordered by importing package.
func Check(pkgs []Package) []Violation {
	var out []Violation
	for _, p := range pkgs {
		folder, ok := strings.CutPrefix(p.Path, Module+"/")
		if !ok {
			if p.Path != Module {
				out = append(out, Violation{From: p.Path, Rule: "is not a package of this module"})
			}
			continue
		}
		height, root, known := layerOf(folder)
		if !known {
			out = append(out, Violation{From: folder, Rule: "has no layer: enter it in internal/arrows/rules.go"})
			continue
		}
		for _, imp := range p.Imports {
			if v := checkImport(folder, height, root, imp); v != "" {
				out = append(out, Violation{From: folder, To: strings.TrimPrefix(imp, Module+"/"), Rule: v})
			}
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].From < out[j].From })
	return out
}

// checkImport returns the rule that one import breaks, or "".
func checkImport(folder string, height int, root, imp string) string {
	target, ours := strings.CutPrefix(imp, Module+"/")
	if !ours {
		return checkVendor(folder, imp)
	}
	targetHeight, targetRoot, known := layerOf(target)
	switch {
	case !known:
		return "has no layer: enter it in internal/arrows/rules.go"
	case targetRoot == root && !(root == "cmd" && programOf(folder) != programOf(target)):
		return "" // inside one component
	case targetHeight < height:
		return ""
	case targetHeight == height:
		return "packages of one layer must not know each other"
	}
	return "imports must point to a lower layer"
}

func checkVendor(folder, imp string) string {
	for vendor, owners := range vendors {
		if imp != vendor && !strings.HasPrefix(imp, vendor+"/") {
			continue
		}
		for _, owner := range owners {
			if folder == owner || strings.HasPrefix(folder, owner+"/") {
				return ""
			}
		}
		return "only " + strings.Join(owners, ", ") + " may use " + vendor
	}
	return ""
}

// layerOf finds the layer of a folder and the entry of the table that decided it.
func layerOf(folder string) (height int, root string, known bool) {
	for name := folder; ; {
		if h, ok := layers[name]; ok {
			return h, name, true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return 0, "", false
		}
		name = name[:i]
	}
}

// programOf returns "cmd/x" of a folder below cmd.
func programOf(folder string) string {
	parts := strings.SplitN(folder, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}
