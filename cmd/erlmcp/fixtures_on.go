//go:build fixtures

package main

import (
	"os"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/conformance/fixtures"
)

// extraTools adds the fixtures of the tests, which leave their trace in the file that the environment names.
func extraTools() func(*mcp.Runtime) error {
	trace := os.Getenv("ERLMCP_TEST_EFFECTS")
	if trace == "" {
		return nil
	}
	return func(rt *mcp.Runtime) error { return fixtures.Register(rt, trace) }
}
