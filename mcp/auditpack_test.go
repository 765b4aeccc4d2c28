package mcp

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLargeAuditRowsAreStoredCompressed(t *testing.T) {
	small := []byte(`{"records":[],"total":1}`)
	require.Equal(t, small, packAudit(small))
	got, err := unpackAudit(small)
	require.NoError(t, err)
	require.Equal(t, small, got)

	var row bytes.Buffer
	row.WriteString(`{"records":[`)
	for i := range 500 {
		fmt.Fprintf(&row, `{"time":"2026-11-22T04:00:00.%06dZ","principal":"ci","tool":"andon_list","outcome":"ok","ms":0.1},`, i)
	}
	row.WriteString(`{}],"total":2}`)
	packed := packAudit(row.Bytes())
	require.Less(t, len(packed), row.Len()/4)
	got, err = unpackAudit(packed)
	require.NoError(t, err)
	require.Equal(t, row.Bytes(), got)

	for i := range packed {
		_, err := unpackAudit(packed[:i]) // cut anywhere: an error, or less than a row, never a panic
		if err == nil {
			require.Zero(t, i)
		}
	}
	_, err = unpackAudit(packAudit(make([]byte, 2*auditRowSize)))
	require.Error(t, err, "a frame that unfolds to more than any row")
}
