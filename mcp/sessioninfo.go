package mcp

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"
)

// A SessionInfo describes one HTTP session of the protocol revisions up to
// 2025-11-25. Whoever knows ID and can pass for Principal can use the session.
type SessionInfo struct {
	ID            string    `json:"id"`
	Principal     string    `json:"principal"`
	Protocol      string    `json:"protocol"`       // negotiated version
	Client        string    `json:"client"`         // name, as the client gave it
	ClientVersion string    `json:"client_version"` // likewise
	Initialized   bool      `json:"initialized"`    // the client said that it is ready
	LogLevel      string    `json:"log_level,omitempty"`
	Created       time.Time `json:"created"`
	LastUsed      time.Time `json:"last_used"` // of sessions not in memory: to within 10 s
	Expires       time.Time `json:"expires"`   // if it is not used before
	InMemory      bool      `json:"in_memory"`

	Subscriptions []string     `json:"subscriptions,omitempty"` // of Session only: resources, in order
	Streams       []StreamInfo `json:"streams,omitempty"`       // of Session only: those that are kept
}

// A StreamInfo describes one event stream of a session.
type StreamInfo struct {
	Name    string    `json:"name"` // "0" is the standalone stream
	Created time.Time `json:"created"`
	Open    bool      `json:"open"`            // more can follow
	Calls   []string  `json:"calls,omitempty"` // ids of the requests that wait for an answer, as JSON
	Last    int64     `json:"last"`            // position of the newest event; 0: none yet
}

// ListSessions returns up to limit (1..1000) sessions with ids above after, in
// the order of their ids; after is empty for the first page.
func (r *Runtime) ListSessions(ctx context.Context, after string, limit int) ([]SessionInfo, error) {
	list, err := r.sessions.store.list(ctx, after, min(max(limit, 1), 1000))
	if err != nil {
		return nil, err
	}
	infos := make([]SessionInfo, 0, len(list))
	for _, rec := range list {
		infos = append(infos, r.sessions.info(rec))
	}
	return infos, nil
}

// Session returns one session with its subscriptions and streams, or ErrNoSession.
func (r *Runtime) Session(ctx context.Context, id string) (SessionInfo, error) {
	if !isSessionID(id) {
		return SessionInfo{}, ErrNoSession
	}
	rec, err := r.sessions.store.load(ctx, id)
	if err != nil {
		return SessionInfo{}, err
	}
	streams, err := r.sessions.store.streams(ctx, id)
	if err != nil {
		return SessionInfo{}, err
	}
	info := r.sessions.info(rec)
	info.Subscriptions = rec.Subs
	slices.Sort(info.Subscriptions)
	for _, st := range streams {
		s := StreamInfo{Name: st.Name, Created: st.Created, Open: !st.Done, Last: st.Last}
		for _, call := range st.Calls {
			s.Calls = append(s.Calls, string(call))
		}
		info.Streams = append(info.Streams, s)
	}
	slices.SortFunc(info.Streams, func(a, b StreamInfo) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return info, nil
}

// TerminateSession ends a session, as a DELETE of its client does: its calls
// are cancelled, its streams end, its id is unknown from now on. ErrNoSession:
// there is none.
func (r *Runtime) TerminateSession(ctx context.Context, id string) error {
	if !isSessionID(id) {
		return ErrNoSession
	}
	return r.sessions.end(ctx, id)
}

func (r *sessions) info(rec *sessionRecord) SessionInfo {
	var params struct {
		ClientInfo struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"clientInfo"`
	}
	_ = json.Unmarshal(rec.Params, &params) // clients may leave it out
	info := SessionInfo{
		ID: rec.ID, Principal: rec.Principal, Protocol: rec.Protocol,
		Client: params.ClientInfo.Name, ClientVersion: params.ClientInfo.Version,
		Initialized: rec.Initialized, LogLevel: rec.LogLevel,
		Created: rec.Created, LastUsed: rec.Seen,
	}
	r.mu.Lock()
	if s := r.live[rec.ID]; s != nil {
		info.InMemory = true
		if s.used.After(info.LastUsed) {
			info.LastUsed = s.used.UTC()
		}
		if s.refs > 0 {
			info.LastUsed = r.rt.opts.Now().UTC()
		}
	}
	r.mu.Unlock()
	info.Expires = info.LastUsed.Add(r.rt.opts.SessionTimeout)
	return info
}
