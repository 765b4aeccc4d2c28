package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/wal"
)

// logDir finds the log of a data directory; dir may be the log itself.
func logDir(fs vfs.FS, dir string) (string, error) {
	if _, err := fs.Stat(dir); err != nil {
		return "", err
	}
	if sub := fs.PathJoin(dir, "wal"); exists(fs, sub) {
		return sub, nil
	}
	return dir, nil
}

func exists(fs vfs.FS, path string) bool {
	_, err := fs.Stat(path)
	return err == nil
}

// text shows bytes as a person can read them: text as it is, the rest as
// hex, cut at limit (0: never).
func text(b []byte, limit int) string {
	cut := ""
	if limit > 0 && len(b) > limit {
		cut = fmt.Sprintf("... (%d bytes)", len(b))
		b = b[:limit]
		for len(b) > 0 && !utf8.Valid(b) && utf8.RuneStart(b[len(b)-1]) {
			b = b[:len(b)-1]
		}
	}
	if printable(b) {
		return string(b) + cut
	}
	return "0x" + hex.EncodeToString(b) + cut
}

func printable(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// textJSON is bytes in JSON: a string if printable, else {"hex": "..."}.
type textJSON []byte

func (t textJSON) MarshalJSON() ([]byte, error) {
	if utf8.Valid(t) {
		return json.Marshal(string(t))
	}
	return json.Marshal(map[string]string{"hex": hex.EncodeToString(t)})
}

// span names a range of log indexes.
func span(first, last uint64) string {
	if last < first || last == 0 {
		return "no entries"
	}
	return fmt.Sprintf("index %d..%d", first, last)
}

func when(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// printFindings writes findings for a person: what, where, what next.
func printFindings(w io.Writer, fs []wal.Finding) {
	for _, f := range fs {
		fmt.Fprintf(w, "%-8s %s\n", f.Severity+":", f.Message)
		if f.File != "" {
			fmt.Fprintf(w, "         file %s, offset %d", f.File, f.Offset)
			if f.FirstIndex != 0 {
				fmt.Fprintf(w, ", from index %d", f.FirstIndex)
				if f.LastIndex != 0 {
					fmt.Fprintf(w, " to %d", f.LastIndex)
				}
			}
			fmt.Fprintf(w, " [%s]\n", f.Kind)
		}
		if f.Advice != "" {
			fmt.Fprintf(w, "         next: %s\n", f.Advice)
		}
	}
}
