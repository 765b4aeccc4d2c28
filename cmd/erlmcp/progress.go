package main

import (
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/erlmcp/erlmcp/ops/backup"
)

// meter shows how far a long command is: bars on a terminal, lines of JSON for a machine, nothing otherwise. tell may be called from
// any goroutine.
type meter struct {
	out    io.Writer // of JSON lines; nil: no JSON
	bars   *mpb.Progress
	bar    *mpb.Bar
	phase  string
	now    func() time.Time
	last   time.Time // when the last JSON line was written
	mu     sync.Mutex
	closed bool
}

// jsonEvery bounds how often a line of JSON is written.
const jsonEvery = 200 * time.Millisecond

func (a *app) newMeter(asJSON bool) *meter {
	m := &meter{now: time.Now}
	if asJSON {
		m.out = a.out
		return m
	}
	if f, ok := a.err.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		m.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond), mpb.WithAutoRefresh())
	}
	return m
}

// event is one line of the output of a long command with --json. The last line is the result.
type event struct {
	Event string `json:"event"` // "progress" or "result"
	*backup.Progress
	Result any `json:"result,omitempty"`
}

func (m *meter) tell(p backup.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	if m.out != nil {
		if now := m.now(); p.Phase != m.phase || now.Sub(m.last) >= jsonEvery {
			m.phase, m.last = p.Phase, now
			_ = json.NewEncoder(m.out).Encode(event{Event: "progress", Progress: &p}) // the result tells whether the output works
		}
		return
	}
	if m.bars == nil {
		return
	}
	if m.bar == nil || p.Phase != m.phase {
		m.endBar()
		m.phase, m.bar = p.Phase, m.newBar(p)
	}
	m.bar.SetTotal(p.Total, false)
	m.bar.SetCurrent(p.Done)
}

func (m *meter) newBar(p backup.Progress) *mpb.Bar {
	counters, speed := decor.Counters(0, "% d / % d "+p.Unit), decor.AverageSpeed(0, "% .0f/s")
	if p.Unit == "bytes" {
		counters, speed = decor.Counters(decor.SizeB1024(0), "% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), "% .1f")
	}
	return m.bars.AddBar(p.Total,
		mpb.PrependDecorators(decor.Name(p.Phase, decor.WC{W: 10, C: decor.DindentRight}), decor.Percentage(decor.WC{W: 5})),
		mpb.AppendDecorators(counters, decor.Name("  "), speed, decor.Name("  ETA "), decor.AverageETA(decor.ET_STYLE_GO)))
}

func (m *meter) endBar() {
	if m.bar != nil {
		m.bar.SetTotal(-1, true)
		m.bar = nil
	}
}

// close ends the bars, so that what is printed next stands below them.
func (m *meter) close() {
	m.mu.Lock()
	m.closed = true
	m.endBar()
	m.mu.Unlock()
	if m.bars != nil {
		m.bars.Wait()
	}
}
