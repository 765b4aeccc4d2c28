package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/erlmcp/erlmcp/wal"
)

type keyFlags struct{ file string }

// load returns the data key, nil if none was given.
func (k *keyFlags) load() ([]byte, error) {
	text := os.Getenv("ERLMCP_DATA_KEY")
	if k.file != "" {
		b, err := os.ReadFile(k.file)
		if err != nil {
			return nil, fmt.Errorf("read key file: %w", err)
		}
		if len(b) == wal.KeySize {
			return b, nil
		}
		text = string(b)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	if b, err := hex.DecodeString(text); err == nil && len(b) == wal.KeySize {
		return b, nil
	}
	if b, err := base64.StdEncoding.DecodeString(text); err == nil && len(b) == wal.KeySize {
		return b, nil
	}
	return nil, fmt.Errorf("the data key must be %d bytes as hex or base64", wal.KeySize)
}
