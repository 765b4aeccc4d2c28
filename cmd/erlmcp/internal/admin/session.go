package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/erlmcp/erlmcp/mcp"
)

// SessionPage is the answer to GET /sessions.
type SessionPage struct {
	Sessions []mcp.SessionInfo `json:"sessions"`
}

func handleSessions(mux *http.ServeMux, src Source) {
	mux.HandleFunc("GET /sessions", func(w http.ResponseWriter, r *http.Request) {
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil {
			limit = 1000
		}
		list, err := src.ListSessions(r.Context(), r.URL.Query().Get("after"), limit)
		answer(w, SessionPage{Sessions: list}, err)
	})
	mux.HandleFunc("GET /sessions/{id}", func(w http.ResponseWriter, r *http.Request) {
		info, err := src.Session(r.Context(), r.PathValue("id"))
		answer(w, info, err)
	})
	mux.HandleFunc("DELETE /sessions/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, src.TerminateSession(r.Context(), r.PathValue("id")))
	})
}

// problem is the body of an answer other than 200.
type problem struct {
	Error string `json:"error"`
}

// answer sends doc, or what went wrong.
func answer(w http.ResponseWriter, doc any, err error) {
	switch {
	case errors.Is(err, mcp.ErrNoSession), errors.Is(err, mcp.ErrNoTask), errors.Is(err, mcp.ErrNotRetryable):
		WriteJSON(w, http.StatusNotFound, problem{err.Error()})
	case err != nil:
		WriteJSON(w, http.StatusInternalServerError, problem{err.Error()})
	default:
		WriteJSON(w, http.StatusOK, doc)
	}
}

// ListSessions is [mcp.Runtime.ListSessions] in the server. ErrNoServer when nobody listens.
func (c *Client) ListSessions(ctx context.Context, after string, limit int) ([]mcp.SessionInfo, error) {
	var page SessionPage
	query := url.Values{"after": {after}, "limit": {strconv.Itoa(limit)}}
	return page.Sessions, c.ask(ctx, http.MethodGet, "/sessions?"+query.Encode(), &page)
}

// Session is [mcp.Runtime.Session] in the server. ErrNoServer when nobody listens; mcp.ErrNoSession.
func (c *Client) Session(ctx context.Context, id string) (mcp.SessionInfo, error) {
	var info mcp.SessionInfo
	return info, c.ask(ctx, http.MethodGet, "/sessions/"+url.PathEscape(id), &info)
}

// TerminateSession is [mcp.Runtime.TerminateSession] in the server. ErrNoServer when nobody listens; mcp.ErrNoSession.
func (c *Client) TerminateSession(ctx context.Context, id string) error {
	var none struct{}
	return c.ask(ctx, http.MethodDelete, "/sessions/"+url.PathEscape(id), &none)
}
