package mcp

import (
	"net/http"
	"strconv"
	"time"
)

// stallTimeout ends an answer whose reader takes nothing for this long, so that
// dead peers do not hold connections and their memory.
const stallTimeout = 30 * time.Second

// writeRefusal answers an HTTP request with a JSON-RPC error.
func writeRefusal(w http.ResponseWriter, bad *wireError) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if bad.Status == http.StatusServiceUnavailable || bad.retry > 0 {
		// Whole seconds, rounded up: a client that comes back earlier is refused again.
		h.Set("Retry-After", strconv.FormatInt(max(1, int64((bad.retry+time.Second-1)/time.Second)), 10))
	}
	if bad.challenge != "" {
		h.Set("WWW-Authenticate", bad.challenge)
	}
	w.WriteHeader(bad.Status)
	_, _ = w.Write(bad.encode())
}
