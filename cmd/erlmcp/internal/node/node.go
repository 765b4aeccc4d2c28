package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/erlmcp/erlmcp/cmd/erlmcp/internal/admin"
	"github.com/erlmcp/erlmcp/config"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/internal/version"
	"github.com/erlmcp/erlmcp/mcp"
	"github.com/erlmcp/erlmcp/mcp/backuptools"
	"github.com/erlmcp/erlmcp/mcp/tcpstools"
	"github.com/erlmcp/erlmcp/ops/backup"
	"github.com/erlmcp/erlmcp/replication/cluster"
	"github.com/erlmcp/erlmcp/tcps"
)

// Options is what a node needs besides its configuration.
type Options struct {
	Config     *config.Config
	Key        []byte // at-rest key; nil: none
	Secret     []byte // of the founders of a cluster; nil: none
	Stdio      bool   // serve MCP on In and Out; the banner is not printed
	In         io.Reader
	Out        io.Writer
	Logger     *slog.Logger
	Executable string           // path of this program, for the client configuration in the banner
	FS         vfs.FS           // of the store; default the real one. serve.json and the socket are always real files
	Now        func() time.Time // default time.Now
	Reload     <-chan struct{}  // each value makes the node look at the files of tokens and certificates again; nil: never

	Extend func(*mcp.Runtime) error // adds tools beside the product's; nil: none

	Environ     []string           // passphrase of the backup repository, access keys of buckets
	BackupEvent func(backup.Event) // hears of failed backups, damage and drills; may be nil
}

// ErrFailStop is returned when the store can no longer acknowledge writes. The process must exit with a failure.
var ErrFailStop = errors.New("the store failed; the server stopped at once and acknowledged nothing that is not on disk")

// parts are what exists once the store is open.
type parts struct {
	store   *engine.Store
	ledger  *tcps.Ledger
	runtime *mcp.Runtime
	backups *backup.Service // nil: no repository is configured
	tracing *tracing        // nil: no traces
	created bool            // by this start
}

// Node is a server in the making or at work.
type Node struct {
	o         Options
	cfg       *config.Config
	log       *slog.Logger
	dir       string // absolute
	startedAt time.Time

	access *access
	phase  atomic.Value // admin.Phase
	parts  atomic.Pointer[parts]
	http   *listeners
	errors chan error // a listener or the stdio loop ended; capacity for all of them
	eof    chan struct{}

	member  *cluster.Member        // nil: a single node
	history atomic.Pointer[string] // see historyName
	socket  sync.Once              // the admin socket

	backups chan struct{} // holds a token while a backup to a repository that is not configured runs
	endJobs func()        // ends the schedules; nil: none run
}

// Run serves until ctx ends, stdin ends (with Stdio), or something fails. It returns nil after a graceful stop.
func Run(ctx context.Context, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	dir, err := filepath.Abs(o.Config.DataDir)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", o.Config.DataDir, err)
	}
	n := &Node{
		o: o, cfg: o.Config, log: o.Logger, dir: dir, startedAt: o.Now(),
		errors: make(chan error, 8), eof: make(chan struct{}), backups: make(chan struct{}, 1),
	}
	n.phase.Store(admin.PhaseRecovering)
	if n.access, err = n.openAccess(); err != nil {
		return err
	}
	if err := n.listen(); err != nil {
		return err
	}
	if err := n.openMember(); err != nil {
		n.http.closeNow()
		return err
	}
	n.log.Info("listening", "listen", n.http.mainAddress, "metrics", n.http.metricsAddress, "state", n.currentPhase())
	opened, err := n.open(ctx)
	if err != nil || opened == nil {
		n.http.closeNow()
		return errors.Join(err, n.closeMember())
	}
	n.parts.Store(opened)
	if err := n.announce(); err != nil {
		return errors.Join(err, n.stop())
	}
	if err := n.serve(ctx); err != nil {
		return err
	}
	return n.stop()
}

// open opens the store and what stands on it. A nil result without error means that ctx ended first.
func (n *Node) open(ctx context.Context) (*parts, error) {
	type result struct {
		p   *parts
		err error
	}
	done := make(chan result, 1)
	go func() {
		p, err := n.openParts(ctx)
		done <- result{p, err}
	}()
	select {
	case r := <-done:
		return r.p, r.err
	case <-ctx.Done():
	}
	// A replay cannot be interrupted, but it may be left: it changes nothing that the next start would not change.
	n.phase.Store(admin.PhaseStopping)
	select {
	case r := <-done:
		if r.err != nil {
			if n.member != nil && errors.Is(r.err, ctx.Err()) {
				return nil, nil // it was waiting for the others
			}
			return nil, r.err
		}
		r.p.runtime.Close()
		return nil, n.closeStore(r.p.store)
	case <-time.After(n.patience()):
		n.log.Warn("stopped during recovery; the next start begins it again")
		return nil, nil
	}
}

func (n *Node) openParts(ctx context.Context) (*parts, error) {
	options := EngineOptions(n.cfg, n.o.Key, n.log)
	options.FS = n.o.FS
	_, err := n.o.FS.Stat(n.o.FS.PathJoin(n.dir, "FORMAT"))
	created := errors.Is(err, fs.ErrNotExist)
	store, err := n.openStore(ctx, options)
	if err != nil {
		return nil, ExplainOpen(n.dir, n.o.Key, err)
	}
	p := &parts{store: store, created: created}
	fail := func(err error) (*parts, error) {
		if p.runtime != nil {
			p.runtime.Close()
		}
		return nil, errors.Join(err, n.closeStore(store))
	}
	if p.ledger, err = tcps.New(store, tcps.Options{}); err != nil {
		return fail(err)
	}
	if p.tracing, err = n.openTracing(); err != nil {
		return fail(err)
	}
	p.runtime, err = mcp.NewRuntime(store, mcp.Options{
		Name: "erlmcp", Title: "erlmcp: TCPS production ledger", Version: version.String(),
		Instructions:    tcpstools.Instructions,
		Logger:          n.log.With("component", "mcp"),
		MaxMessageBytes: n.cfg.MCP.MaxMessageBytes,
		SessionTimeout:  n.cfg.MCP.SessionTimeout,
		EvictAfter:      n.cfg.MCP.EvictAfter,
		EventTTL:        n.cfg.MCP.EventTTL,
		StreamEvents:    int(n.cfg.MCP.StreamEvents),
		StreamAfter:     n.cfg.MCP.StreamAfter,
		Tasks:           n.taskLimits(),
		Freshness:       n.freshness(store),
		AllowedHosts:    n.cfg.Server.AllowedHosts,
		AllowedOrigins:  n.cfg.Server.AllowedOrigins,
		Authenticator:   n.access.authenticator(),
		ToolScopes:      backuptools.ToolScopes(n.cfg.Auth.ScopesOfTools()),
		Rates:           n.rates(),
		MaxSockets:      int(n.cfg.Limits.Sockets),
		SocketIdle:      n.cfg.Limits.SocketIdle,
		Audit:           auditOptions(n.cfg),
		Tracer:          p.tracing.provider(),
	})
	if err != nil {
		return fail(err)
	}
	if err := tcpstools.Register(p.runtime, p.ledger, store); err != nil {
		return fail(err)
	}
	if n.o.Extend != nil {
		if err := n.o.Extend(p.runtime); err != nil {
			return fail(err)
		}
	}
	if p.backups, err = n.newBackups(store); err != nil {
		return fail(err)
	}
	if p.backups != nil && n.operatorsOnly() {
		if err := backuptools.Register(p.runtime, p.backups); err != nil {
			return fail(err)
		}
	}
	return p, nil
}

// EngineOptions translates the configuration for the storage engine.
func EngineOptions(c *config.Config, key []byte, log *slog.Logger) engine.Options {
	s := c.Storage
	// The engine reads 0 as "use the default"; the configuration means it literally.
	if s.RetainLog == 0 {
		s.RetainLog = -1
	}
	return engine.Options{
		SegmentSize: s.SegmentSize, MemTableSize: uint64(s.MemTableSize),
		MaxUnflushed: s.MaxUnflushed, FlushInterval: s.FlushInterval, RetainLog: s.RetainLog,
		MaxPending: int(s.MaxPending), MaxPendingBytes: s.MaxPendingBytes,
		MinFreeDisk:   max(1, uint64(s.MinFreeDisk)),
		MaxValueBytes: int(s.MaxValueBytes), MaxKeyBytes: int(s.MaxKeyBytes),
		Indexes: tcps.Indexes(), Key: key, Logger: log.With("component", "store"),
	}
}

// openSocket opens the admin socket. The directory's lock is held.
func (n *Node) openSocket() (err error) {
	n.socket.Do(func() {
		var l net.Listener
		if l, err = admin.Listen(n.dir); err != nil {
			err = fmt.Errorf("admin socket: %w", err)
			return
		}
		n.http.add("admin socket", admin.Server(n), l, n.errors)
	})
	return err
}

// announce opens the admin socket, publishes the addresses, and starts to answer.
func (n *Node) announce() error {
	if err := n.openSocket(); err != nil {
		return err
	}
	endpoints := n.endpoints()
	err := admin.WriteRunFile(n.dir, admin.RunFile{
		PID: os.Getpid(), Version: version.String(), StartedAt: n.startedAt.UTC(),
		Listen: n.http.mainAddress, TCP: n.http.tcpAddress(), Metrics: n.http.metricsAddress, MCPURL: endpoints.MCP,
	})
	if err != nil {
		return fmt.Errorf("publish the addresses: %w", err)
	}
	n.phase.Store(admin.PhaseServing)
	p := n.parts.Load()
	n.startJobs(p)
	n.serveTCP()
	recovery := p.store.Recovery()
	n.log.Info("serving", "version", version.String(), "data", n.dir, "mcp", endpoints.MCP, "metrics", endpoints.Metrics, "stdio", n.o.Stdio,
		"applied", p.store.AppliedIndex(), "created", p.created, "open", p.store.Stats().OpenDuration, "start", n.o.Now().Sub(n.startedAt))
	if recovery.TornTail != nil {
		n.log.Info("the last write before the crash did not finish and was cut; it was never acknowledged", "what", recovery.TornTail.String())
	}
	for _, repair := range recovery.Repairs {
		n.log.Warn("redundant bytes of the log were damaged; all data is intact", "what", repair.String(), "advice", repair.Advice)
	}
	if !n.o.Stdio {
		return writeBanner(n.o.Out, banner{
			Version: version.String(), DataDir: n.dir, Executable: n.o.Executable, Endpoints: endpoints, NeedsToken: n.access.guard != nil,
		})
	}
	return nil
}

// serve waits for a reason to stop. nil: stop gracefully.
func (n *Node) serve(ctx context.Context) error {
	p := n.parts.Load()
	stdio, cancel := context.WithCancel(ctx)
	defer cancel()
	if n.o.Stdio {
		go func() {
			if err := p.runtime.ServeStdio(stdio, n.o.In, n.o.Out); err != nil && stdio.Err() == nil {
				n.errors <- fmt.Errorf("stdio: %w", err)
				return
			}
			close(n.eof)
		}()
	}
	for {
		select {
		case <-n.o.Reload:
			n.access.reload()
		case <-ctx.Done():
			n.log.Info("stopping", "reason", context.Cause(ctx).Error())
			return nil
		case <-n.eof:
			n.log.Info("stopping", "reason", "end of input")
			return nil
		case <-n.rebuild():
			again, err := n.reopen(ctx)
			if err != nil || again == nil {
				return err
			}
			p = again
		case <-p.store.Failed():
			n.phase.Store(admin.PhaseFailed)
			cause := p.store.Err()
			n.noteDamage(p.store)
			n.log.Error("fail-stop", "cause", cause, "letter", failStopLetter(n.dir, cause))
			return fmt.Errorf("%w: %w", ErrFailStop, cause)
		case err := <-n.errors:
			return errors.Join(err, n.stop())
		}
	}
}

// stop ends gracefully within the configured time.
func (n *Node) stop() error {
	n.phase.Store(admin.PhaseStopping)
	begin := n.o.Now()
	done := make(chan error, 1)
	go func() { done <- n.stopParts() }()
	select {
	case err := <-done:
		n.log.Info("stopped", "took", n.o.Now().Sub(begin))
		return err
	case <-time.After(n.patience()):
		n.log.Warn("stopped without waiting any longer; everything acknowledged is in the log and the next start replays it",
			"limit", n.cfg.Server.ShutdownTimeout)
		return nil
	}
}

// patience is how long a stop is waited for. The limit is a promise to whoever sent the signal, so a tenth of it is kept for leaving
// the process.
func (n *Node) patience() time.Duration { return n.cfg.Server.ShutdownTimeout * 9 / 10 }

func (n *Node) stopParts() error {
	if n.member != nil {
		n.member.StepDown() // first: the others can go on while this one tidies up
	}
	var err error
	if p := n.parts.Load(); p != nil {
		p.runtime.Close() // ends sessions and streams, which Shutdown would wait for
		n.http.shutdown(time.Second)
		p.tracing.stop(n.log)
		n.stopJobs()
		err = n.closeStore(p.store)
	}
	err = errors.Join(err, n.closeMember())
	if cleanErr := admin.Cleanup(n.dir); cleanErr != nil {
		n.log.Warn("files of the running server could not be removed", "error", cleanErr)
	}
	if err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}
