package main

import (
	"os"
	"runtime/debug"
)

// Memory, in bytes, at which the collector of a command that works on a repository begins to run more often instead of letting the heap grow to twice
// what is in use. It never makes a command fail.
const (
	createMemory = 74 << 20  // of a backup with packs of usualPack; what it holds itself is 60 MiB at most
	repoMemory   = 150 << 20 // of everything else

	usualPack   = 16 << 20
	packsInWork = 3 // one that is filled, two on their way
)

// calm makes the collector keep the process at about limit. GOGC and GOMEMLIMIT of the environment come first.
func calm(limit int64) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}
