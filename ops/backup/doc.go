// Package backup makes backups of an open store: on demand, and on a schedule. Package backupfmt knows what a repository
// is; this package knows when to write to it, what to tell people about it, and what to remember.
//
// Everything it does is a job with a name (full, incremental, archive, verify, prune, drill, scrub). One job at a time touches the
// repository; a second one waits its turn. Jobs never hold up writers of the store: a backup reads an image.
package backup
