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
	var open []string // the groups that the line before is in
	for i, s := range settings {
		path := strings.Split(s.key, ".")
		groups, name := path[:len(path)-1], path[len(path)-1]
		same := 0
		for same < min(len(open), len(groups)) && open[same] == groups[same] {
			same++
		}
		if i == 0 || same == len(groups) || same > 0 {
			b.WriteString("\n")
		}
		for depth := same; depth < len(groups); depth++ {
			if depth == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", depth), groups[depth])
		}
		open = groups
		indent := strings.Repeat("  ", len(groups))
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
