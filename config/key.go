package config

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// KeyBytes is the length of the at-rest key (AES-256).
const KeyBytes = 32

// DataKey returns the at-rest key, or nil when the directory is not encrypted. It comes from the environment variable
// ERLMCP_DATA_KEY or from the file named by storage.data_key_file; giving both is an error, because a wrong guess would
// either lock the owner out or leave new data readable. No error message repeats any part of a key.
func (c *Config) DataKey(environ []string, readFile func(string) ([]byte, error)) ([]byte, error) {
	if readFile == nil {
		readFile = os.ReadFile
	}
	text, inEnv := environment(environ)[DataKeyEnv]
	file := c.Storage.DataKeyFile
	switch {
	case inEnv && file != "":
		return nil, &Error{
			Where: c.Origin("storage.data_key_file").String(), Key: "storage.data_key_file",
			Problem: "the key is also in the environment variable " + DataKeyEnv + ": give it in one place",
		}
	case inEnv:
		key, err := decodeKey([]byte(text))
		if err != nil {
			return nil, &Error{Where: "environment " + DataKeyEnv, Problem: err.Error()}
		}
		return key, nil
	case file != "":
		raw, err := readFile(file)
		if err != nil {
			return nil, &Error{
				Where: c.Origin("storage.data_key_file").String(), Key: "storage.data_key_file",
				Problem: "the key file cannot be read: " + err.Error(),
			}
		}
		key, err := decodeKey(raw)
		if err != nil {
			return nil, &Error{
				Where: c.Origin("storage.data_key_file").String(), Key: "storage.data_key_file",
				Problem: file + ": " + err.Error(),
			}
		}
		return key, nil
	}
	return nil, nil
}

// decodeKey accepts 32 raw bytes, 64 hexadecimal digits, or base64 (standard or URL, with or without padding).
func decodeKey(raw []byte) ([]byte, error) {
	if len(raw) == KeyBytes {
		return raw, nil
	}
	text := strings.TrimSpace(string(raw))
	if key, err := hex.DecodeString(text); err == nil && len(key) == KeyBytes {
		return key, nil
	}
	bare := strings.TrimRight(text, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if key, err := enc.DecodeString(bare); err == nil && len(key) == KeyBytes {
			return key, nil
		}
	}
	return nil, fmt.Errorf("is not a key of %d bytes: write 64 hex digits or base64 (`openssl rand -hex 32` makes one)", KeyBytes)
}
