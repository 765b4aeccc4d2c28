// Package report renders results as Markdown tables and keeps the tables of
// bench/README.md equal to the last full run.
//
// A table in the README stands between two comment lines,
//
//	<!-- begin NAME -->
//	<!-- end NAME -->
//
// and Replace swaps what is between them, so that prose and figures live in one
// file and no figure is typed by hand.
package report

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Table is a Markdown table in the making.
type Table struct {
	rows [][]string
}

// NewTable starts a table with its heading.
func NewTable(heading ...string) *Table { return &Table{rows: [][]string{heading}} }

// Row adds a line.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// String renders the table with aligned columns, so that it also reads well in a
// terminal.
func (t *Table) String() string {
	width := make([]int, len(t.rows[0]))
	for _, r := range t.rows {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for n, r := range t.rows {
		for i, c := range r {
			fmt.Fprintf(&b, "| %s%s ", c, strings.Repeat(" ", width[i]-len([]rune(c))))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range width {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// Replace puts text between the marks of section name in the file. A file
// without the marks is an error and stays as it is.
func Replace(file, name, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	head, rest, ok := strings.Cut(string(old), begin)
	if !ok {
		return fmt.Errorf("%s: no line %q", file, strings.TrimSpace(begin))
	}
	_, tail, ok := strings.Cut(rest, end)
	if !ok {
		return fmt.Errorf("%s: no line %q", file, end)
	}
	return os.WriteFile(file, []byte(head+begin+"\n"+strings.TrimSpace(text)+"\n\n"+end+tail), 0o644)
}

// Median of the values; zero when there are none.
func Median[T int | int64 | uint64 | float64 | time.Duration](v []T) T {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// Rate writes operations per second in three digits: 870k, 31.4k, 940.
func Rate(v float64) string {
	switch {
	case v >= 99_950:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.1fk", v/1000)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// Millis writes a duration in milliseconds with two digits behind the point.
func Millis(d time.Duration) string {
	return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond))
}
