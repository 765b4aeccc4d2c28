package replication

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Raft writes its log on the goroutine that leads. While the disk keeps a write nothing is committed and no current read is
// answered, but heartbeats go on beside it: the others would wait for this leader for as long as its disk likes. So a
// leader whose disk has kept one write for Timing.Stall sends nothing more: the others elect one of them, and when the disk
// returns it finds that out before it acknowledges anything. That is as safe as a network that loses messages.

// errStalled is what raft hears instead of sending.
var errStalled = errors.New("replication: this leader is silent because its disk does not answer")

// pace is how fast the disk takes what raft writes. Raft writes one thing at a time; reading is safe from anywhere.
type pace struct {
	began time.Time    // zero of the times below
	since atomic.Int64 // when the write under way began; 0: there is none
	mean  atomic.Int64 // nanoseconds per write, of the newest ones
	last  atomic.Int64 // when a write ended last
}

const (
	paceWeight = 8                // a write changes the mean by an eighth of the difference
	paceMemory = 10 * time.Second // after that without a write nothing is known
)

func newPace() *pace { return &pace{began: time.Now()} }

func (p *pace) now() int64 { return int64(time.Since(p.began)) + 1 }

// writing is called before a write, what it returns behind it.
func (p *pace) writing() (done func()) {
	at := p.now()
	p.since.Store(at)
	return func() {
		now := p.now()
		p.since.Store(0)
		mean := p.mean.Load()
		if now-p.last.Load() > int64(paceMemory) {
			mean = now - at
		}
		p.mean.Store(mean + (now-at-mean)/paceWeight)
		p.last.Store(now)
	}
}

// waiting is how long the write under way has taken, 0: there is none.
func (p *pace) waiting() time.Duration {
	if at := p.since.Load(); at != 0 {
		return time.Duration(p.now() - at)
	}
	return 0
}

// recent is the time a write took of late, or the one under way takes, if that is longer; 0: not known.
func (p *pace) recent() time.Duration {
	mean := time.Duration(p.mean.Load())
	if p.now()-p.last.Load() > int64(paceMemory) {
		mean = 0
	}
	return max(mean, p.waiting())
}

// DiskPace is how long the disk of this node takes for one write of the log, of late; 0: there were none in the last 10 s.
func (n *Node) DiskPace() time.Duration { return n.logs.pace.recent() }

// stalled reports that the disk keeps a write for too long.
func (n *Node) stalled() bool { return n.logs.pace.waiting() > n.o.Timing.Stall }

// diskStalled is the refusal of a node that could not say in time what became of a change.
func (n *Node) diskStalled() error {
	return &NotLeaderError{Heard: n.raft.LastContact(), Cause: errDisk}
}

var errDisk = errors.New("the disk of this node does not answer")

// stalling is a pipeline that is silent while the disk is.
type stalling struct {
	raft.AppendPipeline
	silent func() bool
}

func (s *stalling) AppendEntries(a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if s.silent() {
		return nil, errStalled
	}
	return s.AppendPipeline.AppendEntries(a, resp)
}

// AppendEntriesPipeline implements raft.Transport.
func (b *based) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := b.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return &stalling{p, b.quiet}, nil
}

func (b *based) quiet() bool { return b.silent != nil && b.silent() }
