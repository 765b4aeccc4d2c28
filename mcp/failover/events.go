package failover

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// errSilent: a member took longer than it may.
var errSilent = errors.New("the member is silent")

// isDial reports that a connection was never made: the member has not seen the request.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// message is what is looked at of JSON-RPC messages.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name string `json:"name"`
	} `json:"params"`
	Result *struct {
		IsError    bool `json:"isError"`
		Structured struct {
			Code  string `json:"code"`
			Retry bool   `json:"retry"`
		} `json:"structuredContent"`
	} `json:"result"`
	Error *struct {
		Code int `json:"code"`
	} `json:"error"`
}

// look finds out what the request is. Whatever cannot be read is sent as it is.
func (a *attempt) look() {
	var m message
	if a.req.Method != http.MethodPost || json.Unmarshal(a.body, &m) != nil {
		return
	}
	if m.Method != "" {
		a.id = string(m.ID)
	}
	if m.Method == "tools/call" && a.id != "" {
		a.tool = m.Params.Name
	}
}

// codeOverloaded is mcp.CodeOverloaded.
const codeOverloaded = -32010

// elsewhere reports whether another member may do better, or this one later.
func elsewhere(status int, body []byte) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return true
	}
	var m message
	if !bytes.Contains(body, []byte(`"retry":true`)) && !bytes.Contains(body, []byte(`"code":-32010`)) || json.Unmarshal(body, &m) != nil {
		return false
	}
	switch {
	case m.Error != nil:
		return m.Error.Code == codeOverloaded
	case m.Result != nil && m.Result.IsError:
		return m.Result.Structured.Retry && m.Result.Structured.Code != "cancelled"
	}
	return false
}

// stream gives the caller a response whose events may come from several members, one after the other.
func (a *attempt) stream(resp *http.Response) *http.Response {
	if a.id == "" {
		resp.Body = &closing{resp.Body, a.cancel}
		return resp // a GET: whoever reads it resumes it with Last-Event-ID, which goes to the next member when this one is gone
	}
	r, w := io.Pipe()
	body := resp.Body
	resp.Body, resp.ContentLength = &closing{r, a.cancel}, -1
	go func() {
		defer a.cancel()
		_ = w.CloseWithError(a.pump(body, w))
	}()
	return resp
}

// pump copies events until the answer has come, and goes on with the next member when the stream ends before that. The error is
// nil after the answer.
func (a *attempt) pump(body io.ReadCloser, w *io.PipeWriter) error {
	for {
		answered, err := a.copy(body, w)
		_ = body.Close()
		switch {
		case answered:
			return nil
		case errors.Is(err, io.ErrClosedPipe) || a.ctx.Err() != nil: // nobody reads any more
			return err
		case a.final():
			return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		}
		a.until = time.Now().Add(a.t.o.Patience) // the call may have run for long
		var whole []byte
		if body, whole, err = a.resume(err); err != nil {
			return err
		}
		if whole == nil {
			continue
		}
		_, err = fmt.Fprintf(w, "event: message\ndata: %s\n\n", bytes.ReplaceAll(bytes.TrimSpace(whole), []byte("\n"), []byte(" ")))
		return err
	}
}

// resume sends the request to the next members until one streams (body) or answers in one piece (whole).
func (a *attempt) resume(cause error) (body io.ReadCloser, whole []byte, err error) {
	for a.next() {
		resp, got, err := a.once()
		switch {
		case err != nil:
			cause = err
		case got == nil:
			return resp.Body, nil, nil
		case elsewhere(resp.StatusCode, got):
			cause = fmt.Errorf("HTTP %d", resp.StatusCode)
		case !json.Valid(got):
			return nil, nil, fmt.Errorf("failover: HTTP %d from the next member: %.200q", resp.StatusCode, got)
		default:
			return nil, got, nil
		}
	}
	return nil, nil, fmt.Errorf("%w within %v after the stream broke: %w", ErrNoMember, a.t.o.Patience, cause)
}

// maxEvent bounds what is held of one event.
const maxEvent = 64 << 20

// copy passes whole events on, except an answer that sends the request elsewhere.
func (a *attempt) copy(body io.Reader, w io.Writer) (answered bool, err error) {
	r := bufio.NewReader(body)
	var event, data []byte
	for begin := 0; ; begin = len(event) { // of a line
		var err error
		for {
			var part []byte
			part, err = r.ReadSlice('\n')
			event = append(event, part...)
			if !errors.Is(err, bufio.ErrBufferFull) || len(event) > maxEvent {
				break
			}
		}
		switch {
		case err != nil:
			return false, fmt.Errorf("the stream broke off: %w", err)
		case len(event) > maxEvent:
			return false, fmt.Errorf("an event has more than %d bytes", maxEvent)
		}
		if text := bytes.TrimRight(event[begin:], "\r\n"); len(text) > 0 {
			if d, ok := bytes.CutPrefix(text, []byte("data:")); ok {
				data = append(data, bytes.TrimPrefix(d, []byte(" "))...)
			}
			continue
		}
		final, again := a.judge(data)
		if again {
			return false, errors.New("the member sends this call elsewhere")
		}
		if _, err := w.Write(event); err != nil {
			return false, err
		}
		if final {
			return true, nil
		}
		event, data = event[:0], data[:0]
	}
}

// judge tells the answer of this request from other messages, and whether to keep it.
func (a *attempt) judge(data []byte) (final, again bool) {
	var m message
	if len(data) == 0 || json.Unmarshal(data, &m) != nil || m.Method != "" || string(m.ID) != a.id {
		return false, false
	}
	again = elsewhere(http.StatusOK, data) && time.Now().Before(a.until)
	return !again, again
}

// watched ends a stream that brings nothing for too long.
type watched struct {
	io.ReadCloser
	silence time.Duration
	cancel  context.CancelCauseFunc
}

func (s *watched) Read(p []byte) (int, error) {
	if s.silence <= 0 {
		return s.ReadCloser.Read(p)
	}
	t := time.AfterFunc(s.silence, func() { s.cancel(errSilent) })
	defer t.Stop()
	return s.ReadCloser.Read(p)
}

func (s *watched) Close() error {
	s.cancel(nil)
	return s.ReadCloser.Close()
}

// closing ends whatever happens for a response when its reader loses interest.
type closing struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *closing) Close() error {
	c.cancel()
	return c.ReadCloser.Close()
}
