//go:build !amd64

package avx

func zeroUpper() {}
