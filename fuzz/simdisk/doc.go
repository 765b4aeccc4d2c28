// Package simdisk is a disk that can lose power.
//
// It implements pebble's vfs.FS in memory, so that the log (package wal) and
// the store (Pebble) run on the same simulated hardware, and it remembers
// enough about every operation to answer one question: which directory trees
// may a machine find after the power failed just here?
//
//	process            write, create, rename, remove, link
//	   |
//	   v
//	page cache         what readers see at once           inode.cache, inode.entries
//	   |  sync (file)      |  sync (directory)
//	   v                   v
//	platter            what survives a power loss         inode.disk, inode.durable
//
// A file has two contents: the cached one and the durable one. Between them
// stands the list of writes that were not synced yet. A directory has two
// entry tables and a list of entry changes that were not synced yet. A file's
// sync makes its bytes durable, never its name: the name belongs to the
// directory and needs a sync of the directory.
//
// # The trace
//
// Every operation that changes something is an Op: applied to the state by one
// function (state.apply) and appended to the Trace. A Cursor replays a trace
// operation by operation, and at each step Cursor.Crash builds a new Disk as it
// may be found after a power loss at that step. A crash image shares its pages
// with the trace (copy on write, 4 KiB), so an image costs a few microseconds
// and some hundred bytes, and hundreds of thousands of them can be tried.
//
// # What a power loss may do
//
// A Policy names the freedom that the disk is given. For file data: everything
// unsynced lost, everything kept (kill -9), a prefix in issue order, any subset
// of writes, any subset of 512-byte sectors (torn writes), and sectors that
// hold garbage. For directories: unsynced changes lost, kept, or a prefix of
// them per directory, as a journaling file system would recover them; a rename
// across directories is atomic until one of the two is synced alone. Two limits keep the model honest instead of
// merely hostile:
//
//   - a sector that no unsynced write touched keeps its content, always;
//   - the versions of one sector appear in order: a later write of a sector
//     carries the earlier writes of the same sector with it, because the page
//     cache held both.
//
// A garbage sector may also destroy synced bytes that share the sector with an
// unsynced write. Disks that promise not to (power-safe overwrite) are modelled
// by Policy.SafeOverwrite; Pebble's MANIFEST relies on that promise.
//
// # Faults
//
// Fault rules make a chosen operation fail or misbehave while the process runs:
// an error (ENOSPC, EIO), a failed fsync after which any part of the data may
// be durable although the cache claims all of it (what Linux does), a short
// write, a write that lands elsewhere, a slow operation. The damage functions
// (FlipBit, ZeroSector, SwapSectors, ...) change a disk at rest.
//
// # Determinism
//
// Nothing here reads a clock or a global random source. The same seed, the same
// trace and the same policy give the same image, byte by byte. A Trace can be
// saved, so that a failure found under concurrency is replayed exactly.
//
// # What is not modelled
//
// Disks that lie about a flush for data they acknowledged (apart from the
// failed-fsync and misdirected-write faults), file permissions, symbolic links,
// memory maps, and file system metadata corruption. vfs.File has no truncate;
// the only truncation that can happen is Create on an existing name.
package simdisk
