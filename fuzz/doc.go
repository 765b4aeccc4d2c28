// Package fuzz proves the log and the engine on a simulated disk, instead of
// hoping. It holds tests only; the disk is package simdisk.
//
//	crash_wal_test.go      every crash point of scripted workloads on the log
//	crash_engine_test.go   the same for the engine: transactions, flush, checkpoint
//	fault_wal_test.go      every operation of a workload fails once, or for ever
//	corruption_test.go     damage at rest: detected with the place named, or harmless
//	fuzz_*_test.go         native fuzz targets; seed corpora below testdata/fuzz
//	metamorphic_test.go    different engine options, same history
//
// # The claim that crash enumeration checks
//
// A workload is a sequence of steps. Each step knows how many disk operations
// had happened before it was called and when it was acknowledged. For a crash
// after n operations let `acked` be the last step acknowledged by then and
// `begun` the last one started. The recovered store must equal the model after
// exactly k steps, for one k in [acked, begun]: acknowledged is present,
// unacknowledged is whole or absent, order is kept. It must then accept new
// work, close, and open again clean.
//
// # Reproducing a failure
//
// Goroutines of the log and of Pebble make a recorded workload differ from run
// to run. A failure therefore stores the recorded history next to its message;
// the printed command replays exactly that crash:
//
//	ERLMCP_CRASH_REPLAY=/tmp/....crash go test ./fuzz -run TestCrashReplay -v
//
// # Knobs
//
//	ERLMCP_CRASH_STATES   how many crash states to try (default 10 000 over log and engine, a tenth under the race detector)
//	ERLMCP_CRASH_SEED     seed of the workloads and crashes (default 1)
//	ERLMCP_CORRUPTIONS    how many damages to try per file kind (default few)
package fuzz
