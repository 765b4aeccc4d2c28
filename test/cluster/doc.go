// Package cluster tests a cluster of real server processes on the loopback and in network namespaces: leaders are killed, frozen and cut
// off while clients work on every member. At the end every acknowledged change is on every member, and all have the same state.
//
//	go test ./test/cluster                          a few of each, part of make test
//	ERLMCP_TEST_FAILOVERS=100 go test -run Killed   make failover
package cluster
