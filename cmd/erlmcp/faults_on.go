//go:build faults

package main

import (
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/test/faults/faultfs"
)

// diskOf returns the disk of the store: with the control file named in the environment one that misbehaves by its rules.
func diskOf() vfs.FS {
	if control := os.Getenv(faultfs.Variable); control != "" {
		return faultfs.Wrap(vfs.Default, control, os.Stderr)
	}
	return vfs.Default
}
