package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/bench/mcpclient"
	"github.com/erlmcp/erlmcp/bench/mcpserve"
	"github.com/erlmcp/erlmcp/bench/report"
)

// crowdWorkers is how many connections open sessions at once.
const crowdWorkers = 64

// memoryTables measures what idle sessions and open streams cost. Memory that
// earlier cells made a process take would hide it, so each cell has a server of
// its own.
func (r *mcpRun) memoryTables() (string, error) {
	var b strings.Builder
	if r.sessions > 0 {
		text, err := r.sessionTable()
		if err != nil {
			return "", err
		}
		b.WriteString(text)
	}
	if r.streams > 0 {
		text, err := r.streamTable()
		if err != nil {
			return "", err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// compared are the backends of the memory tables: one row per library.
func (r *mcpRun) compared() (list []mcpserve.Backend) {
	for _, name := range r.names() {
		if b, err := mcpserve.Pick(name); err == nil && !strings.HasPrefix(name, "erlmcp-") && !strings.HasSuffix(name, "-floor") {
			list = append(list, b)
		}
	}
	return list
}

func (r *mcpRun) sessionTable() (string, error) {
	t := report.NewTable("server", "sessions opened per second", "heap per session", "resident per session", "sessions continued per second after kill -9")
	for _, b := range r.compared() {
		row, err := r.sessionRow(b)
		if err != nil {
			return "", err
		}
		t.Row(row...)
		fmt.Fprintf(os.Stderr, "mcp: sessions of %s done\n", b.Name)
	}
	return fmt.Sprintf("\n%d idle sessions of protocol %s, opened and continued by %d connections\n\n%s", r.sessions, mcpclient.Old, crowdWorkers, t), nil
}

func (r *mcpRun) sessionRow(b mcpserve.Backend) ([]string, error) {
	dir := filepath.Join(r.common.dir, "sessions-"+b.Name)
	defer os.RemoveAll(dir)
	s, err := startServer(b, dir, "")
	if err != nil {
		return nil, err
	}
	before, err := s.memory()
	if err != nil {
		return nil, err
	}
	ids := make([]string, r.sessions)
	opened, err := crowd(s, r.sessions, func(c *mcpclient.Client, i int) error {
		if err := c.Initialize(); err != nil {
			return err
		}
		ids[i] = c.Session
		return nil
	})
	if err != nil {
		return nil, err
	}
	after, err := s.memory()
	if err != nil {
		return nil, err
	}
	row := []string{
		b.Name, report.Rate(opened), kib(after.Heap+after.Stacks-before.Heap-before.Stacks, r.sessions),
		kib(after.Resident-before.Resident, r.sessions), "lost",
	}
	s.kill()
	if !strings.HasPrefix(b.Name, "erlmcp") {
		return row, nil
	}
	if s, err = startServer(b, dir, ""); err != nil {
		return nil, err
	}
	defer s.stop()
	resumed, err := crowd(s, r.sessions, func(c *mcpclient.Client, i int) error {
		c.Session = ids[i]
		return c.Echo(payload)
	})
	row[len(row)-1] = report.Rate(resumed)
	return row, err
}

// crowd does n things over crowdWorkers connections and returns how many a second.
func crowd(s *mcpServer, n int, do func(c *mcpclient.Client, i int) error) (float64, error) {
	var (
		next  atomic.Int64
		all   sync.WaitGroup
		once  sync.Once
		first error
	)
	start := time.Now()
	for range crowdWorkers {
		all.Go(func() {
			c, err := mcpclient.Dial(s.address, s.Old, mcpclient.Old)
			if err == nil {
				defer c.Close()
				for i := int(next.Add(1)) - 1; i < n && err == nil; i = int(next.Add(1)) - 1 {
					err = do(c, i)
				}
			}
			if err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(start).Seconds(), first
}

func kib(bytes int64, n int) string { return fmt.Sprintf("%.1f KiB", float64(bytes)/1024/float64(n)) }

func (r *mcpRun) streamTable() (string, error) {
	t := report.NewTable("server", "protocol", "heap per stream", "resident per stream")
	for _, b := range r.compared() {
		for _, version := range []string{mcpclient.Old, mcpclient.New} {
			row, err := r.streamRow(b, version)
			if err != nil {
				return "", err
			}
			t.Row(row...)
		}
		fmt.Fprintf(os.Stderr, "mcp: streams of %s done\n", b.Name)
	}
	return fmt.Sprintf("\n%d open streams, each with a connection (and a session before %s); net/http's part is included\n\n%s", r.streams, mcpclient.New, t), nil
}

func (r *mcpRun) streamRow(b mcpserve.Backend, version string) ([]string, error) {
	dir := filepath.Join(r.common.dir, "streams-"+b.Name)
	defer os.RemoveAll(dir)
	s, err := startServer(b, dir, "")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	before, err := s.memory()
	if err != nil {
		return nil, err
	}
	for range r.streams {
		c, err := mcpclient.Dial(s.address, s.path(version), version)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if version == mcpclient.Old {
			if err := c.Initialize(); err != nil {
				return nil, err
			}
		}
		if err := c.Listen(); err != nil {
			return []string{b.Name, version, err.Error(), ""}, nil
		}
		c.Shrink()
	}
	after, err := s.memory()
	if err != nil {
		return nil, err
	}
	return []string{
		b.Name, version, kib(after.Heap+after.Stacks-before.Heap-before.Stacks, r.streams), kib(after.Resident-before.Resident, r.streams),
	}, nil
}
