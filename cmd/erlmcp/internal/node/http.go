package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/mcp/failover"
)

// listeners are the open ports of a node.
type listeners struct {
	mainAddress, metricsAddress string // host:port as bound; empty: not open

	mu      sync.Mutex
	tcp     net.Listener // of MCP over raw TCP; nil: none
	servers []*http.Server
}

// tcpAddress is where raw TCP is served, empty for nowhere.
func (ls *listeners) tcpAddress() string {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.tcp == nil {
		return ""
	}
	return ls.tcp.Addr().String()
}

// listen binds the configured ports and answers on them at once. With stdio a port is opened only if somebody asked for
// it: clients start stdio servers as they please, and two of them must not fight for a default port.
func (n *Node) listen() error {
	n.http = &listeners{}
	wanted := func(key, address string) bool {
		return address != config.Off && (!n.o.Stdio || n.cfg.IsSet(key))
	}
	if n.cfg.Server.Listen == config.Off && n.cfg.Server.TCPListen == config.Off && !n.o.Stdio {
		return fmt.Errorf("server.listen and server.tcp_listen are %q and there is no --stdio: nobody could reach the server", config.Off)
	}
	if wanted("server.listen", n.cfg.Server.Listen) {
		address, err := n.bind("server.listen", n.cfg.Server.Listen, n.mainHandler(), n.access.certificate)
		if err != nil {
			return err
		}
		n.http.mainAddress = address
		n.warnAboutExposure("server.listen", address)
	}
	if wanted("server.tcp_listen", n.cfg.Server.TCPListen) {
		if err := n.bindTCP(n.cfg.Server.TCPListen); err != nil {
			n.http.closeNow()
			return err
		}
	}
	if wanted("server.metrics_listen", n.cfg.Server.MetricsListen) {
		address, err := n.bind("server.metrics_listen", n.cfg.Server.MetricsListen, n.metricsHandler(), nil)
		if err != nil {
			n.http.closeNow()
			return err
		}
		n.http.metricsAddress = address
	}
	return nil
}

func (n *Node) bind(key, address string, h http.Handler, cert *certificate) (string, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("%s: cannot listen on %s (from %s): %w; choose another address, port 0 picks a free one",
			key, address, n.cfg.Origin(key), err)
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug), // noise of scanners and dropped connections
	}
	if key == "server.listen" {
		srv.ConnContext = n.countConnection
	}
	if cert != nil {
		srv.TLSConfig = cert.config()
	}
	n.http.add(key, srv, l, n.errors)
	return l.Addr().String(), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// add serves on an open listener and reports when that ends unasked.
func (ls *listeners) add(name string, srv *http.Server, l net.Listener, failed chan<- error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.servers = append(ls.servers, srv)
	go func() {
		serve := srv.Serve
		if srv.TLSConfig != nil {
			serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
		}
		if err := serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
}

// shutdown lets running requests finish for a while, then cuts the rest off.
func (ls *listeners) shutdown(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var all sync.WaitGroup
	for _, srv := range ls.servers {
		all.Go(func() {
			if srv.Shutdown(ctx) != nil {
				_ = srv.Close()
			}
		})
	}
	all.Wait()
}

func (ls *listeners) closeNow() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.tcp != nil {
		_ = ls.tcp.Close()
	}
	for _, srv := range ls.servers {
		_ = srv.Close()
	}
}

// mainHandler serves /mcp, /health and /ready.
func (n *Node) mainHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", n.serveMCP)
	mux.HandleFunc("/mcp/ws", n.serveMCP)
	n.access.routes(mux)
	mux.HandleFunc("GET /health", n.serveHealth)
	mux.HandleFunc("GET /ready", n.serveReady)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "erlmcp: MCP at /mcp, health at /health, readiness at /ready")
	})
	return mux
}

// serveMCP hands requests to the protocol runtime, or says that it is not there yet or any more.
func (n *Node) serveMCP(w http.ResponseWriter, r *http.Request) {
	p := n.parts.Load()
	if phase := n.currentPhase(); p == nil || phase == admin.PhaseRecovering {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the server is %s; try again in a second"}}`+"\n", phase)
		return
	}
	if id := n.historyName(r.Context()); id != "" {
		w.Header().Set(failover.HistoryHeader, id)
	}
	if r.URL.Path == "/mcp/ws" {
		p.runtime.WebSocket().ServeHTTP(w, r)
		return
	}
	p.runtime.Handler().ServeHTTP(w, r)
}

// serveHealth answers 200 as long as the server does its work, perhaps with trouble, and 503 when it does not.
func (n *Node) serveHealth(w http.ResponseWriter, r *http.Request) {
	h := n.Health(r.Context())
	code := http.StatusOK
	if h.Status == admin.Red {
		code = http.StatusServiceUnavailable
	}
	admin.WriteJSON(w, code, h)
}

// readiness is the answer of /ready.
type readiness struct {
	Ready  bool        `json:"ready"`
	Phase  admin.Phase `json:"phase"`
	Reason string      `json:"reason,omitempty"`
}

// serveReady answers 200 when a request sent now would be served, writes included.
func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	r := n.readiness()
	code := http.StatusOK
	if !r.Ready {
		w.Header().Set("Retry-After", "1")
		code = http.StatusServiceUnavailable
	}
	admin.WriteJSON(w, code, r)
}

func (n *Node) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry(), promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelWarn),
	}))
	return mux
}

func (n *Node) currentPhase() admin.Phase { return n.phase.Load().(admin.Phase) }

// reachable turns the address of a listener on all interfaces into one that a client on this machine can use.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
