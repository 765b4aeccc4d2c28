// Package faults tests the real erlmcp process on a disk that misbehaves: the binary is built with the tag `faults`,
// which puts package faultfs between its engine and the real disk, and is driven over HTTP by package load.
//
//	crowd ──HTTP──> erlmcp serve ──> engine, log, Pebble ──> faultfs ──> real disk
//	   └── its own record               control file with rules ──┘
//
// What the simulated disk of package fuzz explores by the ten thousand, this checks end to end: exit codes, messages,
// answers to clients, metrics, memory, and that nothing acknowledged is missing after the restart.
//
// The seed is printed; ERLMCP_FAULTS_SEED repeats one.
package faults
