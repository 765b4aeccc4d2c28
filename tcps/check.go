package tcps

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of input. They keep a document far below maxDocumentBytes.
const (
	maxIDBytes   = 200
	maxTextBytes = 64 << 10
	maxMapBytes  = 256 << 10
)

// checkID accepts printable ASCII without spaces, 1 to 200 bytes.
func checkID(field, id string) error {
	if id == "" {
		return missing(field)
	}
	if len(id) > maxIDBytes {
		return invalid(field, "is %d bytes long, the limit is %d", len(id), maxIDBytes)
	}
	for i := 0; i < len(id); i++ {
		if id[i] <= ' ' || id[i] > '~' {
			return invalid(field, "must be printable ASCII without spaces")
		}
	}
	return nil
}

// checkText accepts valid UTF-8 up to limit bytes; empty is fine. NUL is refused
// because it separates the parts of index keys.
func checkText(field, s string, limit int) error {
	switch {
	case len(s) > limit:
		return refuse(CodeTooLarge, "field %q is %d bytes long, the limit is %d", field, len(s), limit).on(field)
	case !utf8.ValidString(s):
		return invalid(field, "is not valid UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return invalid(field, "contains a NUL byte")
	}
	return nil
}

// needText is checkText for a field that must not be empty or blank.
func needText(field, s string, limit int) error {
	if s == "" {
		return missing(field)
	}
	if strings.TrimSpace(s) == "" {
		return invalid(field, "is blank")
	}
	return checkText(field, s, limit)
}

// checkMap accepts anything that has a canonical JSON form within bounds.
func checkMap(field string, m map[string]any) error {
	if len(m) == 0 {
		return nil
	}
	raw, err := canonical(m)
	if err != nil {
		return invalid(field, "cannot be stored as JSON: %v", err)
	}
	if len(raw) > maxMapBytes {
		return refuse(CodeTooLarge, "field %q is %d bytes of JSON, the limit is %d", field, len(raw), maxMapBytes).on(field)
	}
	return nil
}

// Page bounds of list operations.
const (
	defaultPage = 100
	maxPage     = 1000
)

// pageSize applies the default and the bounds to a caller's limit.
func pageSize(limit int) (int, error) {
	switch {
	case limit == 0:
		return defaultPage, nil
	case limit < 0 || limit > maxPage:
		return 0, invalid("limit", "must be between 1 and %d", maxPage)
	}
	return limit, nil
}

// printableKey shows a table key with unprintable bytes escaped.
func printableKey(k []byte) string {
	s := fmt.Sprintf("%q", k)
	return s[1 : len(s)-1]
}
