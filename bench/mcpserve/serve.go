package mcpserve

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // profiles of the servers, on the same port
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	erlmcp "github.com/erlmcp/erlmcp/mcp"
)

// A Backend is one way to serve MCP.
type Backend struct {
	Name string
	// Old and New are the paths that serve protocol 2025-11-25 and 2026-07-28;
	// empty when the backend does not.
	Old, New string
	// Open returns the handler. dir is empty and belongs to the server.
	Open func(dir string) (h http.Handler, stop func(), err error)
}

// Backends are all of them, in table order.
func Backends() []Backend {
	audited := erlmcp.AuditOptions{}
	return []Backend{
		{Name: "erlmcp", Old: "/mcp", New: "/mcp", Open: withFloor(openOurs(true, audited))},
		{Name: "erlmcp-noaudit", Old: "/mcp", New: "/mcp", Open: withFloor(openOurs(true, erlmcp.AuditOptions{Off: true}))},
		{Name: "erlmcp-waitaudit", Old: "/mcp", New: "/mcp", Open: withFloor(openOurs(true, erlmcp.AuditOptions{Durability: erlmcp.AuditBeforeAnswer}))},
		{Name: "erlmcp-sdktool", Old: "/mcp", New: "/mcp", Open: withFloor(openOurs(false, audited))},
		{Name: "go-sdk", Old: "/old", New: "/new", Open: openSDK},
		{Name: "mcp-go", Old: "/mcp", New: "/mcp", Open: openMCPGo(false)},
		{Name: "mcp-go-checked", Old: "/mcp", New: "/mcp", Open: openMCPGo(true)},
		{Name: "go-sdk-floor", Old: "/old", New: "/new", Open: withFloor(openSDK)},
		{Name: "mcp-go-floor", Old: "/mcp", New: "/mcp", Open: withFloor(openMCPGo(false))},
	}
}

// Pick returns the backend of that name.
func Pick(name string) (Backend, error) {
	for _, b := range Backends() {
		if b.Name == name {
			return b, nil
		}
	}
	return Backend{}, fmt.Errorf("there is no MCP server %q", name)
}

// Start serves b on a free loopback port and returns its address.
func Start(b Backend, dir string) (address string, stop func(), err error) {
	h, closeBackend, err := b.Open(dir)
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		closeBackend()
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/mem", serveMemory)
	mux.Handle("/debug/", http.DefaultServeMux)
	mux.Handle("/", h)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	return l.Addr().String(), func() {
		_ = server.Close()
		closeBackend()
	}, nil
}

// Memory is what a process holds after garbage collection, in bytes.
type Memory struct {
	Heap     int64 // live objects
	Stacks   int64 // of goroutines
	Resident int64 // of the process
	Peak     int64 // most that was ever resident
}

func serveMemory(w http.ResponseWriter, _ *http.Request) {
	runtime.GC()
	debug.FreeOSMemory()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m := Memory{Heap: int64(s.HeapAlloc), Stacks: int64(s.StackInuse)}
	m.Resident, m.Peak = resident()
	_ = json.NewEncoder(w).Encode(m)
}

func resident() (now, peak int64) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.Contains([]string{"VmRSS:", "VmHWM:"}, fields[0]) {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		if fields[0] == "VmRSS:" {
			now = kib << 10
		} else {
			peak = kib << 10
		}
	}
	return now, peak
}
