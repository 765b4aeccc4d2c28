//go:build !fixtures

package main

import "github.com/erlmcp/erlmcp/mcp"

// extraTools are tools beside the product's: none, but in a build with the tag `fixtures`, which test/cluster makes for itself.
func extraTools() func(*mcp.Runtime) error { return nil }
