package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/tcps/classic"
)

// BackupRequest asks a server to back itself up. It may carry secrets, which is why it goes over the socket only: whoever may open that
// may read the whole state anyway.
type BackupRequest struct {
	Target  *backup.Target // nil: the repository that the server is configured with
	Options backup.CreateOptions
	Classic *ClassicRequest // a classic archive instead; Target and Options do not count
}

// ClassicRequest asks for a classic archive.
type ClassicRequest struct {
	Dir    string // absolute
	Secret []byte // nil: not encrypted
}

// maxRequest bounds what the server reads of a request.
const maxRequest = 1 << 20

// backupLine is one line of the answer to POST /backup: progress, or what was stored, or why nothing was.
type backupLine struct {
	Progress *backup.Progress `json:"progress,omitempty"`
	Created  *backup.Created  `json:"created,omitempty"`
	Archive  *classic.Archive `json:"archive,omitempty"`
	Error    string           `json:"error,omitempty"`
}

const stoppedText = "the server of %s stopped before the backup was finished; what was stored before is not harmed: %w"

// Backup lets the server back itself up and calls report on the way. Ending ctx ends the backup. ErrNoServer when nobody listens.
func (c *Client) Backup(ctx context.Context, r BackupRequest, report backup.Report) (backup.Created, error) {
	line, err := c.backup(ctx, r, report)
	if err != nil {
		return backup.Created{}, err
	}
	return *line.Created, nil
}

// Classic lets the server write a classic archive of itself. ErrNoServer when nobody listens.
func (c *Client) Classic(ctx context.Context, r ClassicRequest) (classic.Archive, error) {
	line, err := c.backup(ctx, BackupRequest{Classic: &r}, nil)
	if err != nil {
		return classic.Archive{}, err
	}
	return *line.Archive, nil
}

// backup returns the last line of the answer.
func (c *Client) backup(ctx context.Context, r BackupRequest, report backup.Report) (backupLine, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return backupLine{}, fmt.Errorf("encode the request: %w", err)
	}
	resp, err := c.send(ctx, http.MethodPost, "/backup", bytes.NewReader(body))
	switch {
	case ctx.Err() != nil:
		return backupLine{}, ctx.Err()
	case errors.Is(err, io.EOF):
		return backupLine{}, fmt.Errorf(stoppedText, c.dir, err)
	case err != nil:
		return backupLine{}, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var line backupLine
		if err := dec.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return backupLine{}, ctx.Err()
			}
			return backupLine{}, fmt.Errorf(stoppedText, c.dir, err)
		}
		switch {
		case line.Error != "":
			return backupLine{}, errors.New(line.Error)
		case r.Classic == nil && line.Created != nil, r.Classic != nil && line.Archive != nil:
			return line, nil
		case line.Progress != nil && report != nil:
			report(*line.Progress)
		}
	}
}

func streamBackup(w http.ResponseWriter, r *http.Request, src Source) {
	var req BackupRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&req); err != nil {
		http.Error(w, "the request does not decode", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	_ = flush.Flush() // the client hears at once that somebody is at work
	lines := make(chan backupLine, 1)
	go func() {
		defer close(lines)
		if req.Classic != nil {
			a, err := src.Classic(r.Context(), *req.Classic)
			last := backupLine{Archive: &a}
			if err != nil {
				last = backupLine{Error: err.Error()}
			}
			lines <- last
			return
		}
		created, err := src.Backup(r.Context(), req, func(p backup.Progress) {
			select {
			case lines <- backupLine{Progress: &p}:
			default: // a slow reader must not slow the backup down; there will be a newer number
			}
		})
		last := backupLine{Created: &created}
		if err != nil {
			last = backupLine{Error: err.Error()}
		}
		lines <- last // the loop below reads until the channel is closed
	}()
	for line := range lines {
		_ = enc.Encode(line) // a client that went away ends r.Context(), which ends the backup
		_ = flush.Flush()
	}
}

// Drilled is a drill that a command carried out beside the server.
type Drilled struct {
	Repository string                `json:"repository"` // without secrets
	Proof      *backupfmt.DrillProof `json:"proof"`
}

// Drilled tells the server of a drill, so that its status shows it. ErrNoServer when nobody listens.
func (c *Client) Drilled(ctx context.Context, d Drilled) error {
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode the proof: %w", err)
	}
	resp, err := c.send(ctx, http.MethodPost, "/drilled", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func takeDrill(w http.ResponseWriter, r *http.Request, src Source) {
	var d Drilled
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&d); err != nil || d.Proof == nil {
		WriteJSON(w, http.StatusBadRequest, problem{"the proof does not decode"})
		return
	}
	answer(w, struct{}{}, src.Drilled(r.Context(), d))
}
