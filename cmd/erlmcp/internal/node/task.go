package node

import (
	"context"

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

// ListTasks implements admin.Tasks.
func (n *Node) ListTasks(ctx context.Context, after string, limit int, f mcp.TaskFilter) ([]mcp.TaskInfo, error) {
	r, err := n.serving()
	if err != nil {
		return nil, err
	}
	return r.ListTasks(ctx, after, limit, f)
}

// Task implements admin.Tasks.
func (n *Node) Task(ctx context.Context, id string) (mcp.TaskInfo, error) {
	r, err := n.serving()
	if err != nil {
		return mcp.TaskInfo{}, err
	}
	return r.Task(ctx, id)
}

// CancelTask implements admin.Tasks.
func (n *Node) CancelTask(ctx context.Context, id string) (mcp.TaskInfo, error) {
	r, err := n.serving()
	if err != nil {
		return mcp.TaskInfo{}, err
	}
	info, err := r.CancelTask(ctx, id)
	if err == nil {
		n.log.Info("task cancelled by an operator", "task", id[:min(8, len(id))], "tool", info.Tool)
	}
	return info, err
}

// RetryTask implements admin.Tasks.
func (n *Node) RetryTask(ctx context.Context, id string) (mcp.TaskInfo, error) {
	r, err := n.serving()
	if err != nil {
		return mcp.TaskInfo{}, err
	}
	info, err := r.RetryTask(ctx, id)
	if err == nil {
		n.log.Info("task started again by an operator", "task", id[:min(8, len(id))], "tool", info.Tool)
	}
	return info, err
}
