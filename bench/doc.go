// Bench measures erlmcp beside the stores and logs one would otherwise use.
//
//	go run . wal        durable appends: rate, p50, p99
//	go run . engine     durable transactions
//	go run . recovery   reopen and read 1 GiB after kill -9
//	go run . damage     what each log does when its files were damaged
//	go run . backup     backups of the same records beside restic and borg
//	go run . cluster    three members beside hashicorp/raft and etcd; MCP on a cluster
//	go run . failover   the leader is killed, again and again
//	go run . catchup    a follower that missed rows
//	go run . elections  minutes of full load without an election
//
// Every cell of a table (one engine, one setting, one repetition) runs in a
// process of its own, in a directory of its own on the same file system, after a
// sync(2): no garbage collector, page cache or journal inherits another engine's
// work. Repetitions interleave the engines (A B C A B C), so that a disturbance
// on the machine hits all of them; the tables show medians. Read ratios, not
// absolutes: the same run on another disk gives other figures.
//
//	parent: for rep, for setting, for engine --JSON on stdin--> child
//	child:  open, warm up, measure           --JSON on stdout-> parent
//
// -readme FILE also writes the result into the named section of that file.
package main
