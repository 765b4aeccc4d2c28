package mcp

import (
	"crypto/rand"
	"encoding/base64"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// newSessionID returns 256 random bits in base64url.
func newSessionID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// checkSource protects servers on a private address against web pages: a page
// can make a browser send requests here (DNS rebinding), but not choose the
// Host and Origin headers that the browser adds.
func (o *Options) checkSource(req *http.Request) *wireError {
	host := hostname(req.Host)
	if !o.hostAllowed(req, host) {
		return refuse(http.StatusForbidden, jsonrpc.CodeInvalidRequest,
			"forbidden: Host %q is not served here; if it should be, add it to the allowed hosts", req.Host)
	}
	for _, origin := range req.Header.Values("Origin") {
		if !o.originAllowed(origin) {
			return refuse(http.StatusForbidden, jsonrpc.CodeInvalidRequest,
				"forbidden: Origin %q is not trusted; if it should be, add it to the allowed origins", origin)
		}
	}
	return nil
}

func (o *Options) hostAllowed(req *http.Request, host string) bool {
	if isLoopback(host) || slices.Contains(o.AllowedHosts, "*") {
		return true
	}
	if slices.ContainsFunc(o.AllowedHosts, func(allowed string) bool { return strings.EqualFold(allowed, host) }) {
		return true
	}
	if len(o.AllowedHosts) > 0 {
		return false
	}
	// Reached over loopback under another name: the sign of rebinding.
	local, ok := req.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return !ok || local == nil || !isLoopback(hostname(local.String()))
}

func (o *Options) originAllowed(origin string) bool {
	if slices.Contains(o.AllowedOrigins, "*") {
		return true
	}
	if slices.ContainsFunc(o.AllowedOrigins, func(allowed string) bool { return strings.EqualFold(allowed, origin) }) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && isLoopback(u.Hostname())
}

// hostname strips port and brackets from a Host header or an address.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// allowOrigin lets a trusted web page read the answers.
func allowOrigin(w http.ResponseWriter, req *http.Request) {
	origin := req.Header.Get("Origin")
	if origin == "" {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "Mcp-Session-Id, Mcp-Protocol-Version, WWW-Authenticate, Retry-After")
}

// answerPreflight answers the question that browsers ask before a request.
func answerPreflight(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Allow", "GET, POST, DELETE, OPTIONS")
	if req.Header.Get("Origin") != "" {
		h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
		h.Set("Access-Control-Allow-Headers", allowedHeaders(req)+
			"Accept, Authorization, Content-Type, Last-Event-ID, Mcp-Method, Mcp-Name, Mcp-Protocol-Version, Mcp-Session-Id")
		h.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}

// allowedHeaders names the Mcp-Param headers that the page asks for: which
// there are depends on the tools.
func allowedHeaders(req *http.Request) string {
	var list strings.Builder
	for name := range strings.SplitSeq(req.Header.Get("Access-Control-Request-Headers"), ",") {
		name = http.CanonicalHeaderKey(strings.TrimSpace(name))
		if strings.HasPrefix(name, headerParamPrefix) {
			list.WriteString(name + ", ")
		}
	}
	return list.String()
}

const usualAccept = "application/json, text/event-stream"

// checkPostHeaders checks that the body is JSON and the client can read what
// we answer with.
func checkPostHeaders(h http.Header) *wireError {
	if h.Get("Content-Encoding") != "" {
		return refuse(http.StatusUnsupportedMediaType, jsonrpc.CodeInvalidRequest,
			"unsupported Content-Encoding %q: send the body as it is", h.Get("Content-Encoding"))
	}
	if h.Get("Content-Type") == "application/json" && h.Get("Accept") == usualAccept {
		return nil // what nearly all clients send
	}
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, jsonrpc.CodeInvalidRequest,
			"unsupported Content-Type %q: want application/json", h.Get("Content-Type"))
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return refuse(http.StatusUnsupportedMediaType, jsonrpc.CodeInvalidRequest,
			"unsupported charset %q: JSON is UTF-8", charset)
	}
	if !accepts(h, "application/json") || !accepts(h, "text/event-stream") {
		return refuse(http.StatusNotAcceptable, jsonrpc.CodeInvalidRequest,
			"Accept is %q: it must list application/json and text/event-stream", strings.Join(h.Values("Accept"), ", "))
	}
	return nil
}

// accepts reports whether the Accept header names a media type, itself or by a
// wildcard, other than with quality 0.
func accepts(h http.Header, media string) bool {
	kind, _, _ := strings.Cut(media, "/")
	for _, value := range h.Values("Accept") {
		for item := range strings.SplitSeq(value, ",") {
			got, params, err := mime.ParseMediaType(item)
			if err != nil || strings.Trim(params["q"], "0.") == "" && params["q"] != "" {
				continue
			}
			if got == media || got == kind+"/*" || got == "*/*" {
				return true
			}
		}
	}
	return false
}

// isVersion reports whether v looks like a protocol version (a date).
func isVersion(v string) bool {
	if len(v) != len("2026-07-28") {
		return false
	}
	for i := range len(v) {
		if dash := i == 4 || i == 7; dash != (v[i] == '-') || !dash && (v[i] < '0' || v[i] > '9') {
			return false
		}
	}
	return true
}
