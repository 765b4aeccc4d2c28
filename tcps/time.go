package tcps

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// timeLayout is how the ledger shows a moment: UTC with milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z"

// The years a Time may name. Four digits keep the text form sortable.
const (
	minMillis = -62167219200000 // 0000-01-01T00:00:00.000Z
	maxMillis = 253402300799999 // 9999-12-31T23:59:59.999Z
)

// Time is a moment with millisecond precision in the form the ledger shows,
// YYYY-MM-DDTHH:MM:SS.sssZ. The empty value means "not set". In stored
// documents it is a number, unix milliseconds; UnmarshalJSON reads both forms
// and ISO text without a fraction or with a zone. Equal moments are equal
// strings, and text order is time order.
type Time string

// TimeOf converts t, dropping everything below a millisecond.
func TimeOf(t time.Time) Time { return TimeOfMillis(t.UnixMilli()) }

// TimeOfMillis converts unix milliseconds; values outside the years 0 to 9999
// are moved to the nearest border.
func TimeOfMillis(ms int64) Time {
	ms = min(max(ms, minMillis), maxMillis)
	return Time(time.UnixMilli(ms).UTC().Format(timeLayout))
}

// ParseTime reads RFC 3339 text with or without a fraction and returns it in
// canonical form. Precision below a millisecond is dropped.
func ParseTime(s string) (Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return "", fmt.Errorf("%q is not a time like 2026-01-26T10:00:00.000Z", s)
	}
	if ms := t.UnixMilli(); ms < minMillis || ms > maxMillis {
		return "", fmt.Errorf("time %q is out of range", s)
	}
	return TimeOf(t), nil
}

// IsZero reports whether t is not set.
func (t Time) IsZero() bool { return t == "" }

// Millis returns unix milliseconds, 0 for the empty or an unreadable value.
func (t Time) Millis() int64 {
	if t == "" {
		return 0
	}
	v, err := time.Parse(time.RFC3339Nano, string(t))
	if err != nil {
		return 0
	}
	return v.UnixMilli()
}

// Time returns t as a time.Time in UTC, the zero time if t is not set.
func (t Time) Time() time.Time {
	if t == "" {
		return time.Time{}
	}
	return time.UnixMilli(t.Millis()).UTC()
}

// Sub returns t - u; both must be set.
func (t Time) Sub(u Time) time.Duration {
	return time.Duration(t.Millis()-u.Millis()) * time.Millisecond
}

// UnmarshalJSON accepts unix milliseconds, RFC 3339 text, "" and null.
func (t *Time) UnmarshalJSON(b []byte) error {
	switch {
	case bytes.Equal(b, []byte("null")), bytes.Equal(b, []byte(`""`)):
		*t = ""
		return nil
	case len(b) >= 2 && b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("time is not readable: %w", err)
		}
		v, err := ParseTime(s)
		if err != nil {
			return err
		}
		*t = v
		return nil
	}
	ms, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || ms < minMillis || ms > maxMillis {
		return fmt.Errorf("time %s is not unix milliseconds between the years 0 and 9999", b)
	}
	*t = TimeOfMillis(ms)
	return nil
}

// hours converts a duration to hours.
func hours(d time.Duration) float64 { return d.Hours() }
