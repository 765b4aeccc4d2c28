//go:build !linux

package wal

import "github.com/cockroachdb/pebble/v2/vfs"

func dropCache(vfs.File, int64) error { return nil }
