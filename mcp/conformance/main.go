package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/conformance/fixtures"
)

func main() {
	addr := flag.String("http", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	data := flag.String("data", "", "directory of the state; created if absent (required)")
	level := slog.LevelWarn
	flag.TextVar(&level, "log", slog.LevelWarn, "least level to log: DEBUG, INFO, WARN or ERROR")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := run(ctx, *addr, *data, log); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It prints the URL once requests are answered.
func run(ctx context.Context, addr, data string, log *slog.Logger) error {
	if data == "" {
		return errors.New("-data is missing: name a directory for the state")
	}
	rt, err := mcp.Open(filepath.Join(data, "store"), mcp.Options{
		Name: "erlmcp-conformance", Title: "Conformance fixtures of erlmcp", Version: "1", Logger: log,
	})
	if err != nil {
		return err
	}
	if err := fixtures.Register(rt, filepath.Join(data, "effects")); err != nil {
		return errors.Join(err, rt.Close())
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(err, rt.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", rt.Handler())
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	fmt.Printf("http://%s/mcp\n", listener.Addr())

	select {
	case err = <-ended:
		return errors.Join(err, rt.Close())
	case <-ctx.Done():
	}
	err = rt.Close() // ends the streams that Shutdown would wait for
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, srv.Shutdown(patience))
}
