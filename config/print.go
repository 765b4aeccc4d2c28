package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteDefaults writes the built-in configuration as a commented YAML file that Load accepts.
func WriteDefaults(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# erlmcp configuration. Every value below is the built-in default: keep only the lines you change.\n")
	b.WriteString("# Stronger than this file: the environment variable of a setting (server.listen is ERLMCP_SERVER_LISTEN), and\n")
	b.WriteString("# stronger still: flags (--listen, or --set server.listen=...). `erlmcp config check` shows what is in effect.\n")
	section := ""
	for _, s := range settings {
		name, indent := s.key, ""
		if group, rest, ok := strings.Cut(s.key, "."); ok {
			name, indent = rest, "  "
			if group != section {
				section = group
				fmt.Fprintf(&b, "\n%s:\n", group)
			} else {
				b.WriteString("\n")
			}
		} else {
			b.WriteString("\n")
		}
		for _, line := range s.doc {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, s.yaml())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// yaml is the default as it stands in the file.
func (s *setting) yaml() string {
	switch {
	case s.list:
		return "[]"
	case s.def == "", s.def == Off:
		return strconv.Quote(s.def)
	}
	return s.def
}
