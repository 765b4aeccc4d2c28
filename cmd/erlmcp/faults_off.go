//go:build !faults

package main

import "github.com/cockroachdb/pebble/v2/vfs"

// diskOf returns the disk of the store. Only a build with the tag `faults`, which test/faults makes for itself, has another
// one.
func diskOf() vfs.FS { return vfs.Default }
