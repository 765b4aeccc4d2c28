package tcps

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Gate is a quality gate.
type Gate string

// The gates, in the order they are checked.
const (
	GateSHACL         Gate = "shacl_validation"
	GateCompilation   Gate = "compilation"
	GateTest          Gate = "test_execution"
	GateSecurity      Gate = "security_scan"
	GateDeterministic Gate = "deterministic_build"
	GateQuality       Gate = "quality_metrics"
	GateRelease       Gate = "release_verification"
	GateSmoke         Gate = "smoke_test"
)

// Gates returns all gates in order.
func Gates() []Gate {
	return []Gate{GateSHACL, GateCompilation, GateTest, GateSecurity, GateDeterministic, GateQuality, GateRelease, GateSmoke}
}

// Thresholds of the gates, as fractions.
const (
	minTestPassRate        = 0.95
	minTestCoverage        = 0.80
	minQualityGatePassRate = 0.95
	maxDefectRate          = 0.05
	minFirstPassYield      = 0.90
)

// Blocking reports whether a failure of the gate stops the line.
func (g Gate) Blocking() bool { return g != GateSmoke }

// failure is the andon type that a failure of the gate raises.
func (g Gate) failure() FailureType {
	switch g {
	case GateSHACL:
		return FailureSHACL
	case GateCompilation:
		return FailureCompilation
	case GateDeterministic:
		return FailureNonDeterminism
	case GateRelease:
		return FailureMissingReceipt
	}
	return FailureTest
}

// gateOf is the gate a work order must pass to complete a stage; "" if the
// stage has none (requirements and design produce nothing a gate can measure).
func gateOf(s WorkStage) Gate {
	switch s {
	case WorkImplementation:
		return GateCompilation
	case WorkTesting:
		return GateTest
	case WorkIntegration, WorkDeployment:
		return GateRelease
	}
	return ""
}

// andonStageOf is where a failed gate of a work order stage is reported.
func andonStageOf(s WorkStage) AndonStage {
	switch s {
	case WorkImplementation:
		return AndonCompilation
	case WorkTesting:
		return AndonTesting
	case WorkIntegration:
		return AndonIntegration
	case WorkDeployment:
		return AndonDeployment
	}
	return AndonValidation
}

// GateOutcome is the verdict of a gate.
type GateOutcome string

// The verdicts. Missing evidence is never a pass.
const (
	GatePassed   GateOutcome = "passed"
	GateFailed   GateOutcome = "failed"
	GateNotRun   GateOutcome = "not_run"
	GateNotAsked GateOutcome = "no_gate" // the stage has no gate
)

// GateResult is the verdict of a gate over one piece of evidence.
type GateResult struct {
	Gate       Gate        `json:"gate,omitempty"`
	Outcome    GateOutcome `json:"outcome"`
	Violations []string    `json:"violations"` // what failed, for people
	Missing    []string    `json:"missing"`    // evidence members that are absent or have the wrong type
}

// evidence collects what a gate reads.
type evidence struct {
	data                map[string]any
	violations, missing []string
}

// RequiredEvidence names the members a gate reads, with their meaning.
func RequiredEvidence(g Gate) map[string]string {
	switch g {
	case GateSHACL:
		return map[string]string{"conforms": "boolean, must be true"}
	case GateCompilation:
		return map[string]string{"errors": "number of compile errors, must be 0"}
	case GateTest:
		return map[string]string{
			"total_tests": "number of tests run, at least 1", "passed_tests": "number that passed, at least 95 %",
			"coverage": "fraction 0..1 of lines covered, at least 0.80",
		}
	case GateSecurity:
		return map[string]string{"dependency_vulns": "number, must be 0", "hardcoded_secrets": "number, must be 0", "insecure_patterns": "number, must be 0"}
	case GateDeterministic:
		return map[string]string{"hashes": "SHA-256 (hex) of at least two builds, all equal"}
	case GateQuality:
		return map[string]string{"quality_gate_pass_rate": "fraction, at least 0.95", "defect_rate": "fraction, at most 0.05", "first_pass_yield": "fraction, at least 0.90"}
	case GateRelease:
		m := make(map[string]string, len(releaseChecks))
		for _, c := range releaseChecks {
			m[c] = "boolean, must be true"
		}
		return m
	case GateSmoke:
		return map[string]string{"passed": "boolean, must be true"}
	}
	return map[string]string{}
}

var releaseChecks = []string{"artifact_exists", "sbom_generated", "licenses_compliant", "dependencies_pinned", "receipt_chain_complete"}

// CheckGate judges evidence. It never runs anything itself; a member that is
// absent or of the wrong type makes the gate not_run.
func CheckGate(g Gate, data map[string]any) GateResult {
	e := &evidence{data: data}
	switch g {
	case GateSHACL:
		e.truth("conforms")
	case GateCompilation:
		e.zero("errors")
	case GateTest:
		e.tests()
	case GateSecurity:
		e.zero("dependency_vulns")
		e.zero("hardcoded_secrets")
		e.zero("insecure_patterns")
	case GateDeterministic:
		e.hashes()
	case GateQuality:
		e.atLeast("quality_gate_pass_rate", minQualityGatePassRate)
		e.atLeast("first_pass_yield", minFirstPassYield)
		if v, ok := e.fraction("defect_rate"); ok && v > maxDefectRate {
			e.violate("defect_rate is %g, at most %g is allowed", v, maxDefectRate)
		}
	case GateRelease:
		for _, c := range releaseChecks {
			e.truth(c)
		}
	case GateSmoke:
		e.truth("passed")
	default:
		return GateResult{Outcome: GateNotAsked, Violations: []string{}, Missing: []string{}}
	}
	r := GateResult{Gate: g, Outcome: GatePassed, Violations: e.violations, Missing: e.missing}
	some(&r.Violations)
	some(&r.Missing)
	switch {
	case len(e.missing) > 0:
		r.Outcome = GateNotRun
	case len(e.violations) > 0:
		r.Outcome = GateFailed
	}
	return r
}

// CheckAllGates runs the gates in order over evidence keyed by gate name and
// stops behind the first blocking one that did not pass.
func CheckAllGates(data map[Gate]map[string]any) []GateResult {
	var out []GateResult
	for _, g := range Gates() {
		r := CheckGate(g, data[g])
		out = append(out, r)
		if g.Blocking() && r.Outcome != GatePassed {
			break
		}
	}
	return out
}

func (e *evidence) violate(format string, args ...any) {
	e.violations = append(e.violations, fmt.Sprintf(format, args...))
}

func (e *evidence) lack(name string) { e.missing = append(e.missing, name) }

func (e *evidence) truth(name string) {
	v, ok := e.data[name].(bool)
	switch {
	case !ok:
		e.lack(name)
	case !v:
		e.violate("%s is false", name)
	}
}

// number reads a finite, non-negative number.
func (e *evidence) number(name string) (float64, bool) {
	v, ok := asNumber(e.data[name])
	if !ok || v < 0 {
		e.lack(name)
		return 0, false
	}
	return v, true
}

func (e *evidence) fraction(name string) (float64, bool) {
	v, ok := e.number(name)
	if ok && v > 1 {
		e.lack(name) // 85 instead of 0.85 must not pass as "more than enough"
		return 0, false
	}
	return v, ok
}

func (e *evidence) zero(name string) {
	if v, ok := e.number(name); ok && v != 0 {
		e.violate("%s is %g, must be 0", name, v)
	}
}

func (e *evidence) atLeast(name string, low float64) {
	if v, ok := e.fraction(name); ok && v < low {
		e.violate("%s is %g, at least %g is needed", name, v, low)
	}
}

func (e *evidence) tests() {
	total, okTotal := e.number("total_tests")
	passed, okPassed := e.number("passed_tests")
	e.atLeast("coverage", minTestCoverage)
	switch {
	case !okTotal || !okPassed:
	case total < 1:
		e.violate("no test was run")
	case passed > total:
		e.lack("passed_tests")
	case passed/total < minTestPassRate:
		e.violate("%g of %g tests passed, at least %g %% must", passed, total, minTestPassRate*100)
	}
}

func (e *evidence) hashes() {
	list, ok := e.data["hashes"].([]any)
	if !ok {
		if s, isText := e.data["hashes"].([]string); isText {
			for _, v := range s {
				list = append(list, v)
			}
		}
	}
	var sums []string
	for _, v := range list {
		if s, ok := v.(string); ok && isSHA256(s) {
			sums = append(sums, strings.ToLower(s))
		}
	}
	if len(sums) < 2 || len(sums) != len(list) {
		e.lack("hashes")
		return
	}
	if len(slices.Compact(slices.Sorted(slices.Values(sums)))) != 1 {
		e.violate("the builds differ: %s", strings.Join(sums, ", "))
	}
}

// asNumber accepts what JSON decoding and Go callers put into evidence.
func asNumber(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, !math.IsNaN(n) && !math.IsInf(n, 0)
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	}
	return 0, false
}

// isSHA256 reports whether s is 64 hex digits.
func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
