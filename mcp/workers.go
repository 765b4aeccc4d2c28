package mcp

// maxIdleWorkers bounds the goroutines kept for the next call; their stacks
// take about a megabyte together.
const maxIdleWorkers = 64

// workers runs functions in goroutines that are used again. A handler needs a
// deep stack, and growing a fresh one several times over costs as much as a
// small handler itself. The number of functions at work is not bounded here:
// limits on requests are the callers'.
type workers struct {
	next chan func()   // unbuffered: received by idle workers only
	idle chan struct{} // one token for each idle worker
	done <-chan struct{}
}

func newWorkers(done <-chan struct{}) *workers {
	return &workers{next: make(chan func()), idle: make(chan struct{}, maxIdleWorkers), done: done}
}

// run runs fn soon, in another goroutine.
func (p *workers) run(fn func()) {
	select {
	case p.next <- fn:
	default:
		go p.work(fn)
	}
}

func (p *workers) work(fn func()) {
	for {
		fn()
		select {
		case p.idle <- struct{}{}:
		default:
			return // enough are idle
		}
		select {
		case fn = <-p.next:
			<-p.idle
		case <-p.done:
			return
		}
	}
}
