// Package config reads the settings of an erlmcp process.
//
// Three sources are merged, each stronger than the one before it:
//
//	built-in defaults  <  YAML file  <  ERLMCP_* environment  <  command-line flags
//
// Every setting is one row of the table in settings.go: its key, its bounds, its default and the sentence that
// explains it. The table is the only place that knows them. Reading a file, reading the environment, answering
// `erlmcp config print-defaults` and describing the effective configuration all walk the same rows, so a setting
// cannot be documented but ignored, or accepted from one source and unknown to another.
//
// # What is refused
//
// An unknown key, a key given twice, a value of the wrong shape or outside its bounds, and settings that contradict
// each other are errors. Each names its place (file and line, variable, or flag), the key, what was found and what is
// accepted; a near miss is answered with the key that was probably meant. All errors of a source set are reported
// together: nobody should have to fix a file one line per run.
//
// # Secrets
//
// No secret has a key, so none can be written into a configuration file, be printed by `config check`, or end up in a
// support bundle. The at-rest key comes from the ERLMCP_DATA_KEY environment variable or from a file named by
// storage.data_key_file: see [DataKey].
//
// # Concurrency
//
// A [Config] is built once by [Load] and only read afterwards; nothing in this package keeps state.
package config
