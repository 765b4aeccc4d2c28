package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/erlmcp/erlmcp/mcp"
)

// auditLine is one line of the answer to GET /audit: a record, or why there are no more, or the end.
type auditLine struct {
	Record *mcp.AuditRecord `json:"record,omitempty"`
	Error  string           `json:"error,omitempty"`
	End    bool             `json:"end,omitempty"`
}

func streamAudit(w http.ResponseWriter, r *http.Request, src Source) {
	q, err := parseAuditQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	err = src.Audit(r.Context(), q, func(rec mcp.AuditRecord) error { return enc.Encode(auditLine{Record: &rec}) })
	if err != nil {
		_ = enc.Encode(auditLine{Error: err.Error()}) // perhaps nobody reads any more
		return
	}
	_ = enc.Encode(auditLine{End: true})
}

func parseAuditQuery(v url.Values) (q mcp.AuditQuery, err error) {
	q.Principal, q.Tool, q.Outcome = v.Get("principal"), v.Get("tool"), v.Get("outcome")
	for name, field := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if text := v.Get(name); text != "" {
			if *field, err = time.Parse(time.RFC3339Nano, text); err != nil {
				return q, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if text := v.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 {
			return q, fmt.Errorf("limit %q is not a number from 1 on", text)
		}
	}
	return q, nil
}

// Audit calls fn for the audit records that q selects, newest first, until fn returns an error. ErrNoServer when nobody listens.
func (c *Client) Audit(ctx context.Context, q mcp.AuditQuery, fn func(mcp.AuditRecord) error) error {
	v := url.Values{}
	for name, text := range map[string]string{"principal": q.Principal, "tool": q.Tool, "outcome": q.Outcome} {
		if text != "" {
			v.Set(name, text)
		}
	}
	for name, t := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !t.IsZero() {
			v.Set(name, t.Format(time.RFC3339Nano))
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	resp, err := c.do(ctx, http.MethodGet, "/audit?"+v.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var line auditLine
		err := dec.Decode(&line)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the server of %s stopped before all records were read", c.dir)
		case err != nil:
			return fmt.Errorf("answer of the server of %s: %w", c.dir, err)
		case line.Error != "":
			return fmt.Errorf("the server of %s could not read its audit log: %s", c.dir, line.Error)
		case line.End:
			return nil
		case line.Record != nil:
			if err := fn(*line.Record); err != nil {
				return err
			}
		}
	}
}
