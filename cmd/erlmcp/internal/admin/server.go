package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/internal/unixsocket"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

// Source is what a server tells about itself.
type Source interface {
	Status(ctx context.Context) Status
	Health(ctx context.Context) Health
	// Verify runs the integrity checks and calls done after each; it stops early when ctx ends.
	Verify(ctx context.Context, done func(integrity.Check)) (integrity.Report, error)
	// Backup stores the state in a repository; it stops early, changing nothing that counts, when ctx ends.
	Backup(ctx context.Context, r BackupRequest, report backup.Report) (backup.Created, error)
	// Drilled hears of a drill that a command carried out.
	Drilled(ctx context.Context, d Drilled) error
	// The MCP sessions, as the methods of mcp.Runtime give them.
	ListSessions(ctx context.Context, after string, limit int) ([]mcp.SessionInfo, error)
	Session(ctx context.Context, id string) (mcp.SessionInfo, error)
	TerminateSession(ctx context.Context, id string) error
	Tasks
	// Classic writes a classic archive.
	Classic(ctx context.Context, r ClassicRequest) (classic.Archive, error)
	// Audit calls fn for audit records, newest first; see mcp.Runtime.
	Audit(ctx context.Context, q mcp.AuditQuery, fn func(mcp.AuditRecord) error) error
}

// Listen creates the admin socket of dir, replacing one that a killed process left. The caller holds the directory's lock.
func Listen(dir string) (net.Listener, error) {
	path := SocketPath(dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return unixsocket.Listen(path)
}

// Handler answers the commands.
func Handler(src Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { WriteJSON(w, http.StatusOK, src.Status(r.Context())) })
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { WriteJSON(w, http.StatusOK, src.Health(r.Context())) })
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) { streamVerify(w, r, src) })
	if c, ok := src.(ClusterSource); ok {
		mux.HandleFunc("POST /cluster", func(w http.ResponseWriter, r *http.Request) { serveCluster(w, r, c) })
	}
	mux.HandleFunc("POST /drilled", func(w http.ResponseWriter, r *http.Request) { takeDrill(w, r, src) })
	mux.HandleFunc("POST /backup", func(w http.ResponseWriter, r *http.Request) { streamBackup(w, r, src) })
	handleSessions(mux, src)
	handleTasks(mux, src)
	mux.HandleFunc("GET /audit", func(w http.ResponseWriter, r *http.Request) { streamAudit(w, r, src) })
	return mux
}

// verifyLine is one line of the answer to POST /verify: a check that ended, or the report, or why there is none.
type verifyLine struct {
	Check  *integrity.Check  `json:"check,omitempty"`
	Report *integrity.Report `json:"report,omitempty"`
	Error  string            `json:"error,omitempty"`
}

func streamVerify(w http.ResponseWriter, r *http.Request, src Source) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	emit := func(line verifyLine) {
		// A client that went away cancels r.Context(), which ends the run; nothing else depends on the write.
		_ = enc.Encode(line)
		_ = flush.Flush()
	}
	report, err := src.Verify(r.Context(), func(c integrity.Check) { emit(verifyLine{Check: &c}) })
	if err != nil {
		emit(verifyLine{Error: err.Error()})
		return
	}
	emit(verifyLine{Report: &report})
}

// WriteJSON answers with a document that must not be cached.
func WriteJSON(w http.ResponseWriter, code int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(doc) // the connection is gone: there is nobody left to tell
}

// Server wraps Handler with the timeouts of a local socket.
func Server(src Source) *http.Server {
	return &http.Server{Handler: Handler(src), ReadHeaderTimeout: 10 * time.Second}
}
