package version

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStampBeatsModuleVersionBeatsDev(t *testing.T) {
	module := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}
	require.Equal(t, "v9", describe("v9", "", module).Version)
	require.Equal(t, "v1.2.3", describe("", "", module).Version)
	require.Equal(t, "abc", describe("", "", module).Commit)
	require.Equal(t, "def", describe("", "def", module).Commit)
	require.Equal(t, "dev", describe("", "", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}).Version)
	require.Equal(t, "dev", describe("", "", nil).Version)
	require.NotEmpty(t, Get().Go)
	require.Contains(t, Get().Platform, "/")
}
