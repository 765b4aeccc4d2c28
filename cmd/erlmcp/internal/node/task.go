package node

import (
	"context"

	"github.com/erlmcp/erlmcp/mcp"
)

// taskLimits translates the configuration. The tasks of a member of a cluster carry its name, so that others take them over when it
// is gone, and not because they start.
func (n *Node) taskLimits() mcp.TaskLimits {
	t := n.cfg.MCP.Tasks
	name := ""
	if n.member != nil {
		name = n.member.Name()
	}
	return mcp.TaskLimits{
		Node:    name,
		Workers: int(t.Workers), Queue: int(t.Queue), Unfinished: int(t.Unfinished),
		QueuePerPrincipal: int(t.QueuePerPrincipal), UnfinishedPerPrincipal: int(t.UnfinishedPerPrincipal), WaitGrace: t.WaitGrace,
		TTL: t.TTL, TimeLimit: t.TimeLimit, InputLimit: t.InputLimit, Lease: t.Lease,
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
