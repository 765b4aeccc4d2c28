package conversation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// patience is how long a client waits for one answer. It is never used up: a
// server that was killed is back within a second, and what it was asked before
// ends with an answer, a result or an error. Silence is what the test looks for.
const patience = 30 * time.Second

// A Client has one conversation with the servers at urls, which are members of
// one cluster when there are several, and tries each step so often. run is
// appended to all keys, so that conversations with the same servers do not
// meddle with each other; reports do not show it.
type Client func(urls []string, run string, tries int) Report

// A Report is what a client saw of a conversation. The TypeScript client
// prints one as JSON.
type Report struct {
	Steps    []stepReport `json:"steps"`
	Sessions int          `json:"sessions"` // how many it needed
	Updates  int          `json:"updates"`  // notifications of the watched resource
	Progress []string     `json:"progress"` // messages of progress notifications
	Logs     []string     `json:"logs"`
	Error    string       `json:"error"`    // why the conversation ended early
	Unheard  int          `json:"unheard"`  // how often the client had to open its stream of notifications itself
	Statuses []string     `json:"statuses"` // of the task, as its notifications told; not in a session
	Breaks   []string     `json:"breaks"`   // why streams of task notifications ended; not in a session
}

// stepReport is one step of the script.
type stepReport struct {
	Name     string   `json:"name"`
	Text     string   `json:"text"`
	Attempts int      `json:"attempts"`
	Errors   []string `json:"errors"` // of the attempts before the last
}

// script runs the steps of a conversation one after the other. A step that
// fails is tried again, as a client does that was told that its server
// restarted; one that gets no answer is not.
type script struct {
	mu     sync.Mutex
	report Report
	run    string
	tries  int // attempts at a step before the script gives up
}

var errSilence = errors.New("no answer")

func (s *script) step(name string, try func(ctx context.Context) (string, error)) error {
	done := stepReport{Name: name}
	for {
		done.Attempts++
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		text, err := try(ctx)
		silent := ctx.Err() != nil
		cancel()
		if err == nil {
			done.Text = s.unmarked(text)
			break
		}
		done.Errors = append(done.Errors, err.Error())
		if silent {
			err = fmt.Errorf("%w: %w", errSilence, err)
		}
		if silent || done.Attempts == s.tries {
			s.add(func(r *Report) { r.Steps = append(r.Steps, done) })
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.add(func(r *Report) { r.Steps = append(r.Steps, done) })
	return nil
}

// unmarked takes the name of the run out of a text.
func (s *script) unmarked(text string) string {
	if s.run == "" {
		return text
	}
	return strings.ReplaceAll(text, s.run, "")
}

func (s *script) add(fn func(*Report)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.report)
}

func (s *script) get() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// until waits for a condition that another goroutine fulfils.
func until(ctx context.Context, holds func() bool) error {
	for !holds() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
