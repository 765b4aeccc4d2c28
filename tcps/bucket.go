package tcps

import (
	"math"
	"strings"
	"time"
	"unicode"
)

// Bucket is the class of demand a work order belongs to. It decides deadline,
// priority range and WIP limit.
type Bucket string

// The six buckets.
const (
	BucketSecurity      Bucket = "security"
	BucketReliability   Bucket = "reliability"
	BucketCompliance    Bucket = "compliance"
	BucketCost          Bucket = "cost"
	BucketFeatures      Bucket = "features"
	BucketTechnicalDebt Bucket = "technical_debt"
)

// slaNone is the SLA of a bucket without a deadline; its orders carry a
// deadline a hundred years away so that every order sorts by deadline.
const slaNone = time.Duration(math.MaxInt64)

// slaNoneYears is how far away that deadline is.
const slaNoneYears = 100

// bucketRule is one row of the bucket table.
type bucketRule struct {
	bucket             Bucket
	sla                time.Duration
	minimum, maximum   int // priority range, 10 is the most urgent
	normal             int // priority when the signal says nothing
	wip                int // default WIP limit
	purpose, gateFocus string
}

var bucketTable = []bucketRule{
	{BucketSecurity, 24 * time.Hour, 8, 10, 8, 5, "CVE, advisories, hardening", "security scan, penetration test"},
	{BucketReliability, 168 * time.Hour, 5, 9, 6, 5, "bugs, production issues", "coverage, performance benchmarks"},
	{BucketCompliance, 168 * time.Hour, 4, 8, 6, 5, "legal, regulatory", "verification, audit trail"},
	{BucketCost, 720 * time.Hour, 3, 7, 5, 5, "performance, resources", "benchmark gain"},
	{BucketFeatures, 720 * time.Hour, 2, 6, 4, 10, "new function", "acceptance, integration tests"},
	{BucketTechnicalDebt, slaNone, 1, 4, 3, 5, "refactoring", "maintainability"},
}

// Buckets returns all buckets in the order of their table.
func Buckets() []Bucket {
	out := make([]Bucket, len(bucketTable))
	for i, r := range bucketTable {
		out[i] = r.bucket
	}
	return out
}

// BucketInfo describes a bucket to people and tools.
type BucketInfo struct {
	Bucket      Bucket  `json:"bucket"`
	SLAHours    float64 `json:"sla_hours"` // 0: no deadline
	MinPriority int     `json:"min_priority"`
	MaxPriority int     `json:"max_priority"`
	DefaultWIP  int     `json:"default_wip_limit"`
	Purpose     string  `json:"purpose"`
	GateFocus   string  `json:"gate_emphasis"`
}

// BucketTable returns the rules of all buckets.
func BucketTable() []BucketInfo {
	out := make([]BucketInfo, len(bucketTable))
	for i, r := range bucketTable {
		out[i] = BucketInfo{r.bucket, 0, r.minimum, r.maximum, r.wip, r.purpose, r.gateFocus}
		if r.sla != slaNone {
			out[i].SLAHours = r.sla.Hours()
		}
	}
	return out
}

func (b Bucket) rule() bucketRule {
	for _, r := range bucketTable {
		if r.bucket == b {
			return r
		}
	}
	return bucketRule{bucket: b, sla: slaNone, minimum: 1, maximum: 10, normal: 3}
}

// ParseBucket reads a bucket name. Spellings of older exports are accepted:
// upper case, CamelCase with or without "Bucket", "debt", "cost-reduction",
// "new-feature".
func ParseBucket(s string) (Bucket, error) {
	n := strings.TrimSuffix(snake(s), "_bucket")
	switch n {
	case "debt":
		n = string(BucketTechnicalDebt)
	case "cost_reduction":
		n = string(BucketCost)
	case "new_feature", "new_features", "feature":
		n = string(BucketFeatures)
	}
	for _, r := range bucketTable {
		if string(r.bucket) == n {
			return r.bucket, nil
		}
	}
	return "", refuse(CodeInvalidBucket, "%q is not a bucket; use one of %s", s, names(Buckets())).on("bucket")
}

// deadline returns when an order created at now must be done.
func (b Bucket) deadline(now time.Time) Time {
	r := b.rule()
	if r.sla == slaNone {
		return TimeOf(now.AddDate(slaNoneYears, 0, 0))
	}
	return TimeOf(now.Add(r.sla))
}

// snake brings the spellings found in ontologies and old exports to
// lower_snake: InProgress, IN_PROGRESS, in-progress and "in progress" are one.
func snake(s string) string {
	var b strings.Builder
	lower := false // the last rune was a lower-case letter or a digit
	for _, r := range strings.TrimSpace(s) {
		switch {
		case r == '-' || r == ' ' || r == '_':
			b.WriteByte('_')
			lower = false
			continue
		case unicode.IsUpper(r):
			if lower {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
			lower = false
		default:
			lower = true
		}
		b.WriteRune(r)
	}
	return b.String()
}

// names joins typed strings for an error message.
func names[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return strings.Join(out, ", ")
}

// parseName finds s (in any accepted spelling) in a list of canonical names.
func parseName[T ~string](s string, list []T, alias map[string]T) (T, bool) {
	n := snake(s)
	for _, v := range list {
		if string(v) == n {
			return v, true
		}
	}
	v, ok := alias[n]
	return v, ok
}
