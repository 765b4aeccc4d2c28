package faults

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/erlmcp/erlmcp/test/faults/faultfs"
)

const injector = "github.com/erlmcp/erlmcp/test/faults/faultfs"

func TestTheProductContainsNoFaultInjection(t *testing.T) {
	packages := func(tags string) []string {
		cmd := exec.Command("go", "list", "-deps", "-tags", tags, "../../cmd/erlmcp", "../../cmd/tcpsdump")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(t, err)
		return strings.Fields(string(out))
	}
	for _, path := range packages("") {
		require.NotContains(t, path, "erlmcp/test/", "the product imports test code")
		require.NotContains(t, path, "errorfs")
	}
	require.Contains(t, packages("faults"), injector, "this test can fail")

	for _, mark := range []string{faultfs.Variable, faultfs.Mark} {
		require.False(t, contains(t, product, mark), "%q is in the product", mark)
		require.True(t, contains(t, faulty, mark), "%q is in the other binary, so that this test can fail", mark)
	}
}

func contains(t *testing.T, file, text string) bool {
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.Contains(string(raw), text)
}
