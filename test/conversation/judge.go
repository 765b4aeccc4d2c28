package conversation

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// WantedStep is a step and what it ends with.
type WantedStep struct{ name, text string }

// WantedInSession are the steps of a conversation in a session.
var WantedInSession = []WantedStep{
	{"connect", "2025-11-25"},
	{"list", ""},
	{"log level", ""},
	{"subscribe", ""},
	{"count", "count: 5 steps"},
	{"change first", "changed to first"},
	{"hear first", "first"},
	{"elicit", "User response: action=accept, content=map[email:my email username:my username]"},
	{"log", "Logged three messages."},
	{"job", "job: 4 steps for my name"},
	{"change second", "changed to second"},
	{"hear second", "second"},
	{"recall", "count: 5 steps"},
}

// Judge returns what is wrong with a conversation during which the server was
// killed so many times. effects is the trace that the fixtures left.
func Judge(wanted []WantedStep, got Report, kills int, effects string) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if got.Error != "" {
		say("the conversation ended early: %s", got.Error)
		for _, s := range got.Steps {
			say("  %s: %d attempts, %q, errors %q", s.Name, s.Attempts, s.Text, s.Errors)
		}
		return wrong
	}
	retries := 0
	for i, want := range wanted {
		if i >= len(got.Steps) {
			say("step %s is missing", want.name)
			continue
		}
		s := got.Steps[i]
		if s.Name != want.name || s.Text != want.text {
			say("step %s ended with %q, want %s with %q", s.Name, s.Text, want.name, want.text)
		}
		retries += s.Attempts - 1
	}
	if retries > kills {
		say("%d steps had to be repeated although the server was killed %d times: %+v", retries, kills, got.Steps)
	}
	if got.Sessions != 1 {
		say("the client needed %d sessions", got.Sessions)
	}
	for step := 1; step <= 5; step++ {
		if note := fmt.Sprintf("count/%03d", step); !slices.Contains(got.Progress, note) {
			say("progress %s never arrived: %q", note, got.Progress)
		}
	}
	if slices.Contains(wanted, WantedStep{"log", "Logged three messages."}) {
		for _, line := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			if !slices.Contains(got.Logs, line) {
				say("log message %q never arrived: %q", line, got.Logs)
			}
		}
	}
	if got.Unheard > kills || len(got.Breaks) > kills {
		say("%d changes unheard, streams broke with %q, although the server was killed %d times", got.Unheard, got.Breaks, kills)
	}
	trace, err := os.ReadFile(effects)
	if err != nil {
		say("trace: %v", err)
	}
	return append(wrong, JudgeTrace(string(trace), kills)...)
}

// JudgeTrace looks for steps that ran after they were finished, or more often
// than kills can explain.
func JudgeTrace(trace string, kills int) (wrong []string) {
	runs := make(map[string]int)
	finished := make(map[string]bool)
	for line := range strings.Lines(trace) {
		event, step, ok := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case ok && event == "run":
			if finished[step] {
				wrong = append(wrong, fmt.Sprintf("step %s ran again after it was finished", step))
			}
			runs[step]++
		case ok && event == "finished":
			finished[step] = true
		default:
			wrong = append(wrong, fmt.Sprintf("the trace has a line %q", line))
		}
	}
	for step, n := range runs {
		if !finished[step] {
			wrong = append(wrong, fmt.Sprintf("step %s never finished", step))
		}
		if n > 1+kills {
			wrong = append(wrong, fmt.Sprintf("step %s ran %d times although the server was killed %d times", step, n, kills))
		}
	}
	slices.Sort(wrong)
	return wrong
}
