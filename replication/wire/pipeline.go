package wire

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	s, err := t.take(to)
	if err != nil {
		return nil, err
	}
	_ = s.SetDeadline(time.Time{})
	// A request is sent before it has a place in the channel, and leaves the channel before its answer is there: two more are on
	// their way than the channel holds.
	p := &pipeline{t: t, s: s, waiting: make(chan *sent, t.o.InFlight-2), answered: make(chan raft.AppendFuture, t.o.InFlight-2), closed: make(chan struct{})}
	go p.listen()
	return p, nil
}

// pipeline sends requests without waiting for the answers. AppendEntries belongs to one goroutine, listen reads the answers.
type pipeline struct {
	t        *Transport
	s        *stream
	waiting  chan *sent
	answered chan raft.AppendFuture
	closed   chan struct{}
	once     sync.Once
}

// sent is a request that is on its way.
type sent struct {
	start   time.Time
	request *raft.AppendEntriesRequest
	answer  *raft.AppendEntriesResponse
	done    chan struct{}
	err     error // when done is closed
	closed  <-chan struct{}
}

// Error waits for the answer, or for the end of the pipeline.
func (x *sent) Error() error {
	select {
	case <-x.done:
		return x.err
	case <-x.closed:
		return raft.ErrPipelineShutdown
	}
}

func (x *sent) Start() time.Time                      { return x.start }
func (x *sent) Request() *raft.AppendEntriesRequest   { return x.request }
func (x *sent) Response() *raft.AppendEntriesResponse { return x.answer }

// AppendEntries implements raft.AppendPipeline. If a does not fit into one message, a.Entries is cut to what was sent.
func (p *pipeline) AppendEntries(a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	a.Entries = fitting(a.Entries)
	x := &sent{start: time.Now(), request: a, answer: resp, done: make(chan struct{}), closed: p.closed}
	_ = p.s.SetWriteDeadline(x.start.Add(p.t.o.Timeout))
	if err := p.s.write(a); err != nil {
		_ = p.s.Close() // half a message may be on its way
		return nil, err
	}
	select {
	case p.waiting <- x:
		return x, nil
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	}
}

// listen reads the answers in the order of the requests. An answer that cannot be read is one without success, which is how raft
// finds out; with it, and with everything behind it, the pipeline is of no use any more.
func (p *pipeline) listen() {
	for {
		select {
		case x := <-p.waiting:
			_ = p.s.SetReadDeadline(time.Now().Add(p.t.o.Timeout))
			if x.err = p.s.answer(x.answer); x.err != nil {
				*x.answer = raft.AppendEntriesResponse{}
			}
			close(x.done)
			select {
			case p.answered <- x:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answered }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() {
		close(p.closed)
		_ = p.s.Close()
	})
	return nil
}
