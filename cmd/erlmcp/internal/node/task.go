package node

import (
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/mcp"
)

// taskLimits translates the configuration of durable tasks.
func taskLimits(c *config.Config) mcp.TaskLimits {
	t := c.MCP.Tasks
	return mcp.TaskLimits{
		Workers: int(t.Workers), Queue: int(t.Queue), Unfinished: int(t.Unfinished),
		TTL: t.TTL, TimeLimit: t.TimeLimit, InputLimit: t.InputLimit,
	}
}
