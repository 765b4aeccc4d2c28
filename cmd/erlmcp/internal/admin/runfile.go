package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	runFileName = "serve.json"
	socketName  = "admin.sock"
	maxRunFile  = 64 << 10
)

// RunFile says who serves a data directory and where. It is how scripts and tests learn the ports when they asked
// for port 0.
type RunFile struct {
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	Listen    string    `json:"listen"`        // host:port of the main listener; empty: none
	TCP       string    `json:"tcp,omitempty"` // host:port of MCP over raw TCP; empty: none
	Metrics   string    `json:"metrics"`       // host:port of the metrics listener; empty: none
	MCPURL    string    `json:"mcp_url,omitempty"`
	StartedAt time.Time `json:"started_at"`
}

// SocketPath is the admin socket of a data directory.
func SocketPath(dir string) string { return filepath.Join(dir, socketName) }

// WriteRunFile publishes r in dir, readable by the owner only, never half-written.
func WriteRunFile(dir string, r RunFile) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, runFileName)
	tmp := path + ".tmp"
	// A leftover of another mode must not lend its mode to the new file.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("%w: %s must be a file or absent; it holds nothing of value, remove it", err, path)
	}
	return nil
}

// ReadRunFile returns what the server of dir wrote. A missing file is fs.ErrNotExist. The file may be left over from a
// killed process: only an answer on the socket proves that a server runs.
func ReadRunFile(dir string) (RunFile, error) {
	path := filepath.Join(dir, runFileName)
	info, err := os.Stat(path)
	if err != nil {
		return RunFile{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRunFile { // a pipe would block, a device never end
		return RunFile{}, fmt.Errorf("%s is not a run file; remove it", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return RunFile{}, err
	}
	var r RunFile
	if err := json.Unmarshal(data, &r); err != nil {
		return RunFile{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Cleanup removes the run file and the socket. Only the owner of the directory's lock may call it.
func Cleanup(dir string) error {
	var errs []error
	for _, name := range []string{runFileName, runFileName + ".tmp", socketName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
