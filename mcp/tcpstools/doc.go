// Package tcpstools puts the TCPS production ledger (package tcps) on an MCP
// server: tools that work with it, resources that show it, prompts for the
// people who run the line.
//
//	tools      tcps.Ledger methods, one tool each, typed in and out
//	resources  tcps://work_orders/..., tcps://andon/..., tcps://receipts/..., tcps://metrics
//	prompts    shift handover, andon triage, batch planning, five whys, release readiness
//
// # Changes
//
// Every tool that changes something takes an optional idempotency_key: a
// repeated call with the same key and arguments returns the first result and
// changes nothing, also after a crash. The change log names the client as
// "mcp:<client name>".
//
// # Errors
//
// A refusal is a tool result with isError, a text that says what to do next,
// and structured content {code, message, field, details, retry}. The codes are
// those of the ledger, and overloaded, no_space, conflict, timeout,
// unknown_outcome and invalid_arguments. Only a store that failed for good is a
// JSON-RPC error.
//
// # Subscriptions
//
// A client that subscribes to a resource is told when a committed change
// touches it, whoever made the change: the notifications come from the
// engine's log, not from the tools.
package tcpstools
