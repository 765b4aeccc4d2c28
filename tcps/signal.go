package tcps

import (
	"regexp"
	"slices"
	"strings"
)

// SignalType is the kind of demand behind a work order.
type SignalType string

// The signal types.
const (
	SignalGitHubIssue        SignalType = "github_issue"
	SignalGitHubPR           SignalType = "github_pr"
	SignalCVE                SignalType = "cve"
	SignalMarketplaceInstall SignalType = "marketplace_install"
	SignalMarketplaceRefund  SignalType = "marketplace_refund"
	SignalInternalRequest    SignalType = "internal_request"
)

// SignalTypes returns all signal types.
func SignalTypes() []SignalType {
	return []SignalType{
		SignalGitHubIssue, SignalGitHubPR, SignalCVE,
		SignalMarketplaceInstall, SignalMarketplaceRefund, SignalInternalRequest,
	}
}

// PullSignal is a demand as it arrived. Nothing is produced without one.
type PullSignal struct {
	Type        SignalType     `json:"type" jsonschema:"github_issue, github_pr, cve, marketplace_install, marketplace_refund or internal_request"`
	Source      string         `json:"source" jsonschema:"where the demand comes from, e.g. an issue URL or a CVE id"`
	Description string         `json:"description,omitempty" jsonschema:"what is wanted; defaults to the source"`
	Labels      []string       `json:"labels,omitempty" jsonschema:"labels that decide bucket and priority: security, bug, compliance, refactor, performance, critical, high, medium"`
	Metadata    map[string]any `json:"metadata,omitempty" jsonschema:"further facts; metadata.bucket chooses the bucket of an internal_request"`
}

var cveID = regexp.MustCompile(`^CVE-[0-9]{4}-[0-9]{4,19}$`)

// isCVE reports whether the signal is about a published vulnerability.
func (s PullSignal) isCVE() bool {
	return s.Type == SignalCVE || strings.HasPrefix(s.Source, "CVE-")
}

// hasLabel ignores case.
func (s PullSignal) hasLabel(label string) bool {
	return slices.ContainsFunc(s.Labels, func(l string) bool { return strings.EqualFold(l, label) })
}

// normalise checks the signal and brings it into stored form.
func (s *PullSignal) normalise() error {
	if s.Type == "" {
		return missing("signal.type")
	}
	t, ok := parseName(string(s.Type), SignalTypes(), map[string]SignalType{
		"git_hub_issue": SignalGitHubIssue, "git_hub_pr": SignalGitHubPR,
		"cve_advisory": SignalCVE, "cveadvisory": SignalCVE,
	})
	if !ok {
		return refuse(CodeInvalidSignalType, "%q is not a signal type; use one of %s", s.Type, names(SignalTypes())).on("signal.type")
	}
	s.Type = t
	s.Source = strings.TrimSpace(s.Source)
	if up := strings.ToUpper(s.Source); strings.HasPrefix(up, "CVE-") {
		s.Source = up
	}
	if s.Source == "" {
		return missing("signal.source")
	}
	if s.isCVE() && !cveID.MatchString(s.Source) {
		return invalid("signal.source", "%q is not a CVE id like CVE-2026-12345", s.Source)
	}
	if strings.TrimSpace(s.Description) == "" {
		s.Description = s.Source
	}
	if len(s.Labels) > 100 {
		return invalid("signal.labels", "has %d labels, the limit is 100", len(s.Labels))
	}
	for _, l := range s.Labels {
		if err := checkText("signal.labels", l, 200); err != nil {
			return err
		}
	}
	if err := checkText("signal.source", s.Source, 2000); err != nil {
		return err
	}
	if err := checkMap("signal.metadata", s.Metadata); err != nil {
		return err
	}
	return checkText("signal.description", s.Description, maxTextBytes)
}

// Route returns the bucket of a signal; the first matching rule wins. The only
// error is an internal request that names an unknown bucket.
func Route(s PullSignal) (Bucket, error) {
	if s.isCVE() {
		return BucketSecurity, nil
	}
	for _, r := range []struct {
		label  string
		bucket Bucket
	}{
		{"security", BucketSecurity},
		{"bug", BucketReliability},
		{"compliance", BucketCompliance},
		{"refactor", BucketTechnicalDebt},
		{"performance", BucketCost},
	} {
		if s.hasLabel(r.label) {
			return r.bucket, nil
		}
	}
	switch s.Type {
	case SignalMarketplaceRefund:
		return BucketReliability, nil
	case SignalMarketplaceInstall:
		return BucketFeatures, nil
	case SignalInternalRequest:
		if v, ok := s.Metadata["bucket"]; ok {
			name, _ := v.(string)
			b, err := ParseBucket(name)
			if err != nil {
				return "", refuse(CodeInvalidBucket, "metadata.bucket %v is not a bucket; use one of %s", v, names(Buckets())).on("signal.metadata.bucket")
			}
			return b, nil
		}
	}
	return BucketFeatures, nil
}

// Priority returns the priority of a signal, 1 to 10 with 10 the most urgent,
// clamped into the range of its bucket.
func Priority(s PullSignal, b Bucket) int {
	return b.clamp(rawPriority(s, b))
}

func (b Bucket) clamp(p int) int {
	r := b.rule()
	return min(max(p, r.minimum), r.maximum)
}

func rawPriority(s PullSignal, b Bucket) int {
	switch {
	case s.isCVE():
		return 10
	case s.Type == SignalMarketplaceRefund:
		return 8
	case s.Type == SignalMarketplaceInstall:
		return 4
	case s.hasLabel("critical"):
		return 9
	case s.hasLabel("high"):
		return 7
	case s.hasLabel("medium"):
		return 5
	case s.Type == SignalGitHubIssue:
		return 3
	}
	return b.rule().normal
}

// PrioritizeSignals returns the signals by descending priority; equal ones
// keep their order. Signals that cannot be routed come last.
func PrioritizeSignals(signals []PullSignal) []PullSignal {
	rank := func(s PullSignal) int {
		b, err := Route(s)
		if err != nil {
			return 0
		}
		return Priority(s, b)
	}
	out := slices.Clone(signals)
	slices.SortStableFunc(out, func(x, y PullSignal) int { return rank(y) - rank(x) })
	return out
}
