package report

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReplaceChangesOneSectionOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	require.NoError(t, os.WriteFile(file, []byte("a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\nkeep\n<!-- end y -->\n"), 0o644))
	require.NoError(t, Replace(file, "x", "new\n"))
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "a\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nb\n<!-- begin y -->\nkeep\n<!-- end y -->\n", string(got))
}

func TestReplaceRefusesAFileWithoutTheMarks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	require.NoError(t, os.WriteFile(file, []byte("text\n<!-- begin x -->\n"), 0o644))
	require.ErrorContains(t, Replace(file, "x", "new"), "<!-- end x -->")
	require.ErrorContains(t, Replace(file, "z", "new"), "<!-- begin z -->")
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "text\n<!-- begin x -->\n", string(got))
}

func TestFiguresAreWrittenInThreeDigits(t *testing.T) {
	require.Equal(t, "870k", Rate(870_123))
	require.Equal(t, "100k", Rate(99_990))
	require.Equal(t, "31.4k", Rate(31_400))
	require.Equal(t, "940", Rate(940))
	require.Equal(t, "0.27", Millis(268*time.Microsecond))
	require.Equal(t, 2.5, Median([]float64{4, 1, 2, 3}))
	require.Equal(t, time.Second, Median([]time.Duration{time.Hour, time.Second, 0}))
}

func TestTablesAreAligned(t *testing.T) {
	tb := NewTable("a", "bb")
	tb.Row("ccc", "d")
	require.Equal(t, "| a   | bb |\n|-----|----|\n| ccc | d  |\n", tb.String())
}
