package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/integrity"
	"github.com/erlmcp/erlmcp/internal/unixsocket"
	"github.com/erlmcp/erlmcp/mcp"
)

// ErrNoServer means that no server runs on the data directory.
var ErrNoServer = errors.New("no server is running on this data directory")

// maxDocument bounds what a client reads of one answer.
const maxDocument = 64 << 20

// Client talks to the server of one data directory.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns a client for dir; nothing is opened before the first call.
func NewClient(dir string) *Client {
	path := SocketPath(dir)
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsocket.Dial(ctx, path) },
		DisableKeepAlives: true,
	}}}
}

// Status asks for the status document. ErrNoServer when nobody listens.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.get(ctx, "/status", &s)
}

// Health asks for the health document. ErrNoServer when nobody listens.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	return h, c.get(ctx, "/health", &h)
}

// Verify runs the checks in the server and calls done as each ends. ErrNoServer when nobody listens.
func (c *Client) Verify(ctx context.Context, done func(integrity.Check)) (integrity.Report, error) {
	resp, err := c.do(ctx, http.MethodPost, "/verify")
	if err != nil {
		return integrity.Report{}, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)); ; {
		var line verifyLine
		if err := dec.Decode(&line); err != nil {
			return integrity.Report{}, fmt.Errorf("the server of %s stopped before the check was finished: %w", c.dir, err)
		}
		switch {
		case line.Error != "":
			return integrity.Report{}, fmt.Errorf("the server of %s could not run the check: %s", c.dir, line.Error)
		case line.Report != nil:
			return *line.Report, nil
		case line.Check != nil && done != nil:
			done(*line.Check)
		}
	}
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.ask(ctx, http.MethodGet, path, into)
}

// ask reads one document.
func (c *Client) ask(ctx context.Context, method, path string, into any) error {
	resp, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("answer of the server of %s: %w", c.dir, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	return c.send(ctx, method, path, nil)
}

func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://erlmcp"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			return nil, ErrNoServer
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var p problem
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p); err != nil || p.Error == "" {
			return nil, fmt.Errorf("the server of %s answered %s to %s", c.dir, resp.Status, path)
		}
		for _, known := range []error{mcp.ErrNoSession, mcp.ErrNoTask, mcp.ErrNotRetryable} {
			if resp.StatusCode == http.StatusNotFound && p.Error == known.Error() {
				return nil, known
			}
		}
		return nil, fmt.Errorf("the server of %s: %s", c.dir, p.Error)
	}
	return resp, nil
}
