package avx

import "golang.org/x/sys/cpu"

var has = cpu.X86.HasAVX

func zeroUpper() {
	if has {
		vzeroupper()
	}
}

//go:noescape
func vzeroupper()
