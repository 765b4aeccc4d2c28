// Package backuptools puts the backups of a server (package ops/backup) on
// its MCP endpoint, for the agents and consoles of operators.
//
//	backup_create   makes a backup                               task
//	backup_list     what the repository holds                    answers at once
//	backup_verify   checks the repository                        task
//	restore_plan    how a moment would be restored; a dry run    answers at once
//	drill_run       proves that the backups restore              task
//
// No tool changes the data of the server, restores over it, removes a
// backup or shows a key. They need the scope [Scope]; who maps scopes to tools
// is the owner of the runtime, see [Names].
//
// # Tasks
//
// The long ones are durable tasks: a client that knows tasks polls them, for
// others the call waits. They wait for their turn behind the scheduled jobs,
// report where they stand, and can be cancelled without harm. After a crash
// they are started again:
//
//   - backup_create looks first for a backup that carries the mark of its
//     task (the end of the label), so that one call never makes two;
//   - backup_verify reads again, what was read longest ago first if it has a
//     budget;
//   - drill_run removes the scratch of the killed run, whose name is that of
//     the task, and begins anew.
//
// # Errors
//
// A refusal is a tool result with isError, a text with the advice, and
// structured content {code, message, retry}. Too much asked for at once is the
// JSON-RPC error -32010.
package backuptools
