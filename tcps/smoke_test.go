package tcps_test

import (
	"testing"

	"github.com/erlmcp/erlmcp/tcps"
	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	b := start(t)
	w := b.running(tcps.BucketFeatures)
	w = b.complete(w.ID, "SKU-1")
	require.Equal(t, tcps.StatusCompleted, w.Status)
	b.sound()
}
