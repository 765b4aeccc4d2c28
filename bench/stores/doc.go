// Package stores puts every transactional key-value store which the benchmark
// compares behind one interface: one durable write transaction per Put, from any
// number of goroutines.
//
// All stores get a 64 MiB memtable where they have one, and otherwise their
// defaults; a deviation is explained at the constructor and is in the peer's
// favour.
package stores
