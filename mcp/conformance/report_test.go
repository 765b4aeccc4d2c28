package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// requirements are the server scenarios of one revision, as the suite's own
// file lists them.
type requirements struct {
	Required  []string // what a conforming server passes
	NotScored []string // run and reported, but the suite does not count them
}

// readRequirements reads one of the suite's requirements/*.yaml.
func readRequirements(data []byte) (requirements, error) {
	var r requirements
	var section, scenario string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		item := strings.TrimSpace(line)
		switch {
		case item == "" || strings.HasPrefix(item, "#"):
		case !strings.HasPrefix(line, " "):
			section = strings.TrimSuffix(item, ":")
		case section == "server" && strings.HasPrefix(item, "- "):
			r.Required = append(r.Required, item[2:])
		case section == "not_scored" && strings.HasPrefix(item, "- scenario: "):
			scenario = strings.TrimPrefix(item, "- scenario: ")
		case section == "not_scored" && item == "leg: server":
			r.NotScored = append(r.NotScored, scenario)
		}
	}
	if len(r.Required) == 0 {
		return r, fmt.Errorf("no server scenarios among the requirements")
	}
	return r, nil
}

// A check is one thing that a scenario looked at.
type check struct {
	ID     string `json:"id"`
	Status string `json:"status"` // SUCCESS, INFO, WARNING, SKIPPED, FAILURE
	Error  string `json:"errorMessage"`
	About  string `json:"description"`
}

// outputName is how the suite names a scenario's directory: server-, the
// scenario, the time.
var outputName = regexp.MustCompile(`^server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$`)

// readChecks reads what a run of the suite left in dir: scenario -> checks.
func readChecks(dir string) (map[string][]check, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := make(map[string][]check)
	for _, e := range entries {
		m := outputName.FindStringSubmatch(e.Name())
		if m == nil {
			return nil, fmt.Errorf("%s is not the directory of a scenario: did the suite change its layout?", e.Name())
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name(), "checks.json"))
		if err != nil {
			return nil, err
		}
		var checks []check
		if err := json.Unmarshal(data, &checks); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		all[m[1]] = append(all[m[1]], checks...)
	}
	return all, nil
}

// excuse names a check that may end without success, and why.
type excuse struct{ scenario, status, why string }

// judge returns what is wrong with a run, one line each. Everything that the
// suite runs counts here, also what it does not score itself.
func judge(want requirements, got map[string][]check, excuses []excuse) (wrong []string) {
	for _, scenario := range slices.Concat(want.Required, want.NotScored) {
		if len(got[scenario]) == 0 {
			wrong = append(wrong, scenario+": was not run")
		}
	}
	used := make([]bool, len(excuses))
	for scenario, checks := range got {
		for _, c := range checks {
			if c.Status == "SUCCESS" || c.Status == "INFO" {
				continue
			}
			i := slices.IndexFunc(excuses, func(e excuse) bool { return e.scenario == scenario && e.status == c.Status })
			if i >= 0 {
				used[i] = true
				continue
			}
			why := c.Error
			if why == "" {
				why = c.About
			}
			wrong = append(wrong, fmt.Sprintf("%s: %s %s: %s", scenario, c.Status, c.ID, why))
		}
	}
	for i, e := range excuses {
		if !used[i] && len(got[e.scenario]) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: no check is %s any more; remove its excuse", e.scenario, e.status))
		}
	}
	slices.Sort(wrong)
	return wrong
}
