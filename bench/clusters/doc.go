// Package clusters runs one member of a replicated store in this process, as a
// Go program would that uses the library: ours, hashicorp/raft on two log
// stores, and etcd with its Go client. The benchmark starts three processes of
// a kind and writes through them.
//
// Every kind syncs its log before it acknowledges, as it does by default, and
// talks over TCP on the loopback: ours with mutual TLS, because it has nothing
// else, the others without TLS, which is their default.
package clusters
