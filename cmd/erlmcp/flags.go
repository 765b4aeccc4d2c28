package main

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// placeholderValue shows DIR or ADDR in the help text where pflag would show "string".
type placeholderValue struct {
	pflag.Value
	name string
}

func (v *placeholderValue) Type() string { return v.name }

// cut splits KEY=VALUE.
func cut(kv string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(kv, "=")
	return strings.TrimSpace(key), value, ok && strings.TrimSpace(key) != ""
}

// writeJSON prints a document for a machine.
func writeJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// writeLine prints a document for a machine on one line.
func writeLine(w io.Writer, doc any) error { return json.NewEncoder(w).Encode(doc) }

// sortedKeys are the keys of a map, ascending.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
