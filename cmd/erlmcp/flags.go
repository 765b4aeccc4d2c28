package main

import (
	"encoding/json"
	"io"
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
