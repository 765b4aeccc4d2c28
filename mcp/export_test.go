package mcp

import (
	"context"
	"encoding/json"
)

// SetTaskNotification stands in for the tasks in tests of subscriptions.
func (r *Runtime) SetTaskNotification(fn func(ctx context.Context, principal, taskID string) (json.RawMessage, bool)) {
	r.taskNotification = fn
}

// PublishTask is what a committed change of a task calls.
func (r *Runtime) PublishTask(principal, taskID string) { r.publishTask(principal, taskID) }
