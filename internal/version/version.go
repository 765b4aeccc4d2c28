// Package version says which build is running. The Makefile stamps the two variables with -ldflags; a binary built
// without it (`go run`, `go install`) falls back to what the Go tool recorded, and to "dev".
package version

import (
	"runtime"
	"runtime/debug"
)

// Set by -ldflags "-X github.com/erlmcp/erlmcp/internal/version.stamp=... -X ...commit=...".
var (
	stamp  string
	commit string
)

// Info describes a build.
type Info struct {
	Version  string `json:"version"` // git describe, a module version, or "dev"
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Get returns the description of this build.
func Get() Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = nil
	}
	return describe(stamp, commit, build)
}

// String returns the version alone.
func String() string { return Get().Version }

func describe(stamp, commit string, build *debug.BuildInfo) Info {
	info := Info{Version: stamp, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if build != nil {
		if v := build.Main.Version; info.Version == "" && v != "" && v != "(devel)" {
			info.Version = v
		}
		for _, s := range build.Settings {
			if s.Key == "vcs.revision" && info.Commit == "" {
				info.Commit = s.Value
			}
		}
	}
	if info.Version == "" {
		info.Version = "dev"
	}
	return info
}
