// Package cluster tests a cluster of real server processes on the loopback and in network namespaces: leaders are killed, frozen and cut
// off, networks split in one direction, flap, lose and delay, disks fill up, while clients work on every member. At the end every
// acknowledged change is on every member, all have the same state, and the history of what clients wrote and read is
// linearizable (porcupine decides).
//
//	go test ./test/cluster                            short forms of each, part of make test
//	ERLMCP_TEST_CLUSTER=long go test ./test/cluster   make failures
//	ERLMCP_TEST_FAILOVERS=100 go test -run Killed     make failover
package cluster
