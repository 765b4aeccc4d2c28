package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/erlmcp/erlmcp/mcp"
)

// TaskPage is the answer to GET /tasks.
type TaskPage struct {
	Tasks []mcp.TaskInfo `json:"tasks"`
}

// Tasks are the durable tasks, as the methods of mcp.Runtime give them.
type Tasks interface {
	ListTasks(ctx context.Context, after string, limit int, f mcp.TaskFilter) ([]mcp.TaskInfo, error)
	Task(ctx context.Context, id string) (mcp.TaskInfo, error)
	CancelTask(ctx context.Context, id string) (mcp.TaskInfo, error)
	RetryTask(ctx context.Context, id string) (mcp.TaskInfo, error)
}

func handleTasks(mux *http.ServeMux, src Tasks) {
	mux.HandleFunc("GET /tasks", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		limit, err := strconv.Atoi(q.Get("limit"))
		if err != nil || limit <= 0 {
			limit = 1000
		}
		list, err := src.ListTasks(r.Context(), q.Get("after"), limit,
			mcp.TaskFilter{Status: mcp.TaskStatus(q.Get("status")), Tool: q.Get("tool"), Principal: q.Get("principal")})
		answer(w, TaskPage{Tasks: list}, err)
	})
	one := func(pattern string, do func(ctx context.Context, id string) (mcp.TaskInfo, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			info, err := do(r.Context(), r.PathValue("id"))
			answer(w, info, err)
		})
	}
	one("GET /tasks/{id}", src.Task)
	one("POST /tasks/{id}/cancel", src.CancelTask)
	one("POST /tasks/{id}/retry", src.RetryTask)
}

// ListTasks is [mcp.Runtime.ListTasks] in the server. ErrNoServer when nobody listens.
func (c *Client) ListTasks(ctx context.Context, after string, limit int, f mcp.TaskFilter) ([]mcp.TaskInfo, error) {
	var page TaskPage
	query := url.Values{
		"after": {after}, "limit": {strconv.Itoa(limit)}, "status": {string(f.Status)}, "tool": {f.Tool}, "principal": {f.Principal},
	}
	return page.Tasks, c.ask(ctx, http.MethodGet, "/tasks?"+query.Encode(), &page)
}

// Task is [mcp.Runtime.Task] in the server. ErrNoServer when nobody listens; mcp.ErrNoTask.
func (c *Client) Task(ctx context.Context, id string) (mcp.TaskInfo, error) {
	return c.task(ctx, http.MethodGet, id, "")
}

// CancelTask is [mcp.Runtime.CancelTask] in the server. ErrNoServer when nobody listens; mcp.ErrNoTask.
func (c *Client) CancelTask(ctx context.Context, id string) (mcp.TaskInfo, error) {
	return c.task(ctx, http.MethodPost, id, "/cancel")
}

// RetryTask is [mcp.Runtime.RetryTask] in the server. ErrNoServer when nobody listens; mcp.ErrNoTask, mcp.ErrNotRetryable.
func (c *Client) RetryTask(ctx context.Context, id string) (mcp.TaskInfo, error) {
	return c.task(ctx, http.MethodPost, id, "/retry")
}

func (c *Client) task(ctx context.Context, method, id, what string) (info mcp.TaskInfo, err error) {
	return info, c.ask(ctx, method, "/tasks/"+url.PathEscape(id)+what, &info)
}
