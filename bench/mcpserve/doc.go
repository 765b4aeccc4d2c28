// Package mcpserve runs the MCP servers that the benchmark compares, each with
// one tool that says back what it was told, as plainly as its library allows.
//
// Start opens a server on a loopback port of its own. /mem on the same port
// collects garbage and tells what memory the process then holds.
package mcpserve
