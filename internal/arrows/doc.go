// Package arrows keeps the layers of the project in order.
//
//	cmd/erlmcp  cmd/tcpsdump                    wiring and command line only
//	    |
//	mcp     tcps     ops     cdc                protocol | ledger | health, alerts, dashboard | change feed
//	    \     |      /      /
//	replication      backupfmt                  Raft over the log | backup repository
//	    |       \     /    |
//	  engine     snapshot  |                    transactions, indexes, apply | point-in-time format
//	    \         |       /
//	         wal                                the segmented log
//
// An import may only point to a lower layer; packages of one layer do not know each other. The rules are data
// (layers and vendors in rules.go); the test asks `go list` for the real imports and fails with the offending edge and the rule
// that it breaks. Test files are free: a test of the log may drive the engine.
//
// A new top-level package must be entered in the table before it compiles in CI: deciding where it belongs is the point.
package arrows
