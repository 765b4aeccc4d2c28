// Package mcpclient presses MCP servers over HTTP/1.1 with as little work of
// its own as possible: the generator shares the processors with the server, and
// what it spends is missing from what is measured. It writes each request with
// one call and reads just enough of the answer to know that it is right.
package mcpclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// The protocol revisions it speaks.
const (
	Old = "2025-11-25"
	New = "2026-07-28"
)

// A Client is one connection with at most one session. It belongs to one
// goroutine.
type Client struct {
	Session string // Mcp-Session-Id; empty until Initialize, and for New

	address, path, version string
	conn                   net.Conn
	in                     *bufio.Reader
	out                    []byte
	body                   []byte
	answer                 []byte
	id                     int
}

// Dial connects to a server.
func Dial(address, path, version string) (*Client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &Client{address: address, path: path, version: version, conn: conn, in: bufio.NewReaderSize(conn, 16<<10)}, nil
}

// Close closes the connection; the session stays.
func (c *Client) Close() error { return c.conn.Close() }

// Initialize opens a session of the old revision.
func (c *Client) Initialize() error {
	c.Session = ""
	body := `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"` + Old + `","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`
	session, err := c.post("", "", body, 200)
	if err != nil {
		return err
	}
	c.Session = session
	_, err = c.post("", "", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, 202)
	return err
}

// capabilities of the client in requests of the new revision.
const capabilities = `{"extensions":{"io.modelcontextprotocol/tasks":{}}}`

// Call calls a tool and returns the answer, which is valid until the next call.
func (c *Client) Call(tool, arguments string) ([]byte, error) {
	c.id++
	c.body = append(c.body[:0], `{"jsonrpc":"2.0","id":`...)
	c.body = strconv.AppendInt(c.body, int64(c.id), 10)
	c.body = append(c.body, `,"method":"tools/call","params":{`...)
	if c.version == New {
		c.body = append(c.body, `"_meta":{"io.modelcontextprotocol/protocolVersion":"`+New+`","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":`+capabilities+`},`...)
	}
	c.body = append(c.body, `"name":"`...)
	c.body = append(c.body, tool...)
	c.body = append(c.body, `","arguments":`...)
	c.body = append(c.body, arguments...)
	c.body = append(c.body, "}}"...)
	if _, err := c.post("tools/call", tool, string(c.body), 200); err != nil {
		return nil, err
	}
	if bytes.Contains(c.answer, []byte(`"error":`)) {
		return nil, fmt.Errorf("answer is an error: %s", c.answer)
	}
	return c.answer, nil
}

// Echo calls the tool "echo" and checks what it says.
func (c *Client) Echo(text string) error {
	answer, err := c.Call("echo", `{"text":"`+text+`"}`)
	if err == nil && !bytes.Contains(answer, []byte(text)) {
		err = fmt.Errorf("wrong answer: %s", answer)
	}
	return err
}

// Put calls the tool "put", which keeps a row, and checks that it says so.
func (c *Client) Put(key, text string) error {
	answer, err := c.Call("put", `{"key":"`+key+`","text":"`+text+`"}`)
	if err == nil && !bytes.Contains(answer, []byte(`"kept"`)) {
		err = fmt.Errorf("wrong answer: %s", answer)
	}
	return err
}

// Task makes a durable task.
func (c *Client) Task(tool, text string) error {
	answer, err := c.Call(tool, `{"text":"`+text+`"}`)
	if err == nil && !bytes.Contains(answer, []byte(`"taskId":`)) {
		err = fmt.Errorf("not a task: %s", answer)
	}
	return err
}

// post sends one message and reads the whole answer.
func (c *Client) post(method, name, body string, want int) (session string, err error) {
	c.head("POST", method, name)
	c.out = append(c.out, "Content-Type: application/json\r\nContent-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
	c.out = append(c.out, "\r\n\r\n"...)
	c.out = append(c.out, body...)
	if _, err := c.conn.Write(c.out); err != nil {
		return "", err
	}
	h, err := c.header()
	if err != nil {
		return "", err
	}
	if err := c.readBody(h); err != nil {
		return "", err
	}
	if h.status != want {
		return "", fmt.Errorf("status %d, want %d: %s", h.status, want, c.answer)
	}
	return h.session, nil
}

func (c *Client) head(verb, method, name string) {
	c.out = append(c.out[:0], verb...)
	c.out = append(c.out, ' ')
	c.out = append(c.out, c.path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: "...)
	c.out = append(c.out, c.address...)
	c.out = append(c.out, "\r\nAccept: application/json, text/event-stream\r\n"...)
	if c.version == New || c.Session != "" {
		c.out = append(c.out, "Mcp-Protocol-Version: "...)
		c.out = append(c.out, c.version...)
		c.out = append(c.out, "\r\n"...)
	}
	if c.version == New {
		c.out = append(c.out, "Mcp-Method: "...)
		c.out = append(c.out, method...)
		c.out = append(c.out, "\r\n"...)
		if name != "" {
			c.out = append(c.out, "Mcp-Name: "...)
			c.out = append(c.out, name...)
			c.out = append(c.out, "\r\n"...)
		}
	}
	if c.Session != "" {
		c.out = append(c.out, "Mcp-Session-Id: "...)
		c.out = append(c.out, c.Session...)
		c.out = append(c.out, "\r\n"...)
	}
}

// Listen opens an event stream: the standalone stream of the session, or a
// subscription of the new revision. It returns when the server has begun to
// answer; the stream stays open until Close.
func (c *Client) Listen() error {
	if c.version == New {
		body := `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"` + New +
			`","io.modelcontextprotocol/clientCapabilities":` + capabilities + `},"notifications":{"toolsListChanged":true}}}`
		c.head("POST", "subscriptions/listen", "")
		c.out = fmt.Appendf(c.out, "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	} else {
		c.head("GET", "", "")
		c.out = append(c.out, "\r\n"...)
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	h, err := c.header()
	if err == nil && h.status != 200 {
		err = fmt.Errorf("status %d for a stream", h.status)
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	return err
}

// Shrink gives back the client's buffers, for crowds of idle ones.
func (c *Client) Shrink() { c.in, c.out, c.body, c.answer = nil, nil, nil, nil }

type header struct {
	status  int
	length  int // -1: chunked
	session string
}

func (c *Client) header() (header, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return header{}, err
	}
	h := header{}
	if len(line) < 12 {
		return h, fmt.Errorf("not HTTP: %q", line)
	}
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return h, err
	}
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return h, err
		}
		if len(line) <= 2 {
			return h, nil
		}
		switch name, value, _ := bytes.Cut(line, []byte(":")); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if h.length, err = strconv.Atoi(strings.TrimSpace(string(value))); err != nil {
				return h, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			h.length = -1
		case bytes.EqualFold(name, []byte("Mcp-Session-Id")):
			h.session = strings.TrimSpace(string(value))
		}
	}
}

func (c *Client) readBody(h header) error {
	c.answer = c.answer[:0]
	if h.length >= 0 {
		return c.read(h.length)
	}
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 32)
		if err != nil {
			return fmt.Errorf("chunk: %w", err)
		}
		if err := c.read(int(n)); err != nil {
			return err
		}
		if _, err := c.in.Discard(2); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

func (c *Client) read(n int) error {
	if n > 1<<20 {
		return errors.New("the answer is larger than a megabyte")
	}
	start := len(c.answer)
	c.answer = append(c.answer, make([]byte, n)...)
	_, err := io.ReadFull(c.in, c.answer[start:])
	return err
}
