package manyhash

import "golang.org/x/sys/cpu"

//go:noescape
func compress16(lanes *group)

//go:noescape
func compress8(lanes *group)

// lanes is how many messages the machine hashes at once, 0: none.
var lanes = func() int {
	switch {
	case cpu.X86.HasAVX512F:
		return 16
	case cpu.X86.HasAVX2:
		return 8
	}
	return 0
}()

// compress takes the next block of every lane into its chaining value.
func compress(lanes int, g *group) {
	if lanes == 16 {
		compress16(g)
	} else {
		compress8(g)
	}
}
