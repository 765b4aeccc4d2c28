package auth

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/erlmcp/erlmcp/mcp"
)

// The token file: one JSON object per line, in UTF-8; empty lines and lines
// that begin with # are comments and stay when the file is rewritten. Only
// hashes are in it, so reading it gives nobody access; writing does, hence a
// file that group or others may write is refused.
const (
	maxFileBytes = 4 << 20
	maxTokens    = 10_000
	hashPrefix   = "sha256:"

	secretPrefix = "erlmcp_" // makes leaked tokens findable by secret scanners
	minSecret    = 32        // characters of a token that was made elsewhere
	maxName      = 128
)

// A Token is one line of the token file.
type Token struct {
	ID      string    `json:"id"`               // 8 hex digits, names the token without revealing it
	Name    string    `json:"name"`             // what it is for; unique in the file
	Subject string    `json:"subject"`          // the principal that its bearer is
	Scopes  []string  `json:"scopes"`           // what it permits; "*" is everything
	Hash    string    `json:"hash"`             // "sha256:" and 64 hex digits
	Created time.Time `json:"created"`          // for people only
	Expires time.Time `json:"expires,omitzero"` // absent: never
}

// NewToken makes a token of 256 bits from random and returns it with its secret,
// which exists nowhere else.
func NewToken(random io.Reader, t Token) (secret string, _ Token, err error) {
	var bits [32 + 4]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		return "", t, fmt.Errorf("random bits: %w", err)
	}
	secret = secretPrefix + base64.RawURLEncoding.EncodeToString(bits[:32])
	t.ID = hex.EncodeToString(bits[32:])
	t.Hash = hashOf(secret)
	return secret, t, t.check()
}

// ImportToken is NewToken for a secret that was made elsewhere: at least 32
// characters of those that a bearer token may have. It must be random: a
// password would be guessed from its hash.
func ImportToken(random io.Reader, secret string, t Token) (Token, error) {
	if len(secret) < minSecret || len(secret) > maxBearer {
		return t, fmt.Errorf("the token has %d characters: %d to %d are accepted, all of them random", len(secret), minSecret, maxBearer)
	}
	for i := range len(secret) {
		if !isTokenByte(secret[i]) {
			return t, errors.New("the token may have letters, digits and -._~+/= only")
		}
	}
	var id [4]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return t, fmt.Errorf("random bits: %w", err)
	}
	t.ID, t.Hash = hex.EncodeToString(id[:]), hashOf(secret)
	return t, t.check()
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hashPrefix + hex.EncodeToString(sum[:])
}

// digest returns the hash as bytes; the token was checked.
func (t *Token) digest() (d [sha256.Size]byte) {
	_, _ = hex.Decode(d[:], []byte(strings.TrimPrefix(t.Hash, hashPrefix)))
	return d
}

// check returns what is wrong with the token.
func (t *Token) check() error {
	if id, err := hex.DecodeString(t.ID); err != nil || len(id) != 4 {
		return fmt.Errorf("id %q: want 8 hex digits", t.ID)
	}
	if err := checkText("name", t.Name); err != nil {
		return err
	}
	if err := checkText("subject", t.Subject); err != nil {
		return err
	}
	if t.Subject == mcp.Anonymous || strings.HasPrefix(t.Subject, oauthSubject) {
		return fmt.Errorf("subject %q is reserved", t.Subject)
	}
	if err := CheckScopes(t.Scopes); err != nil {
		return err
	}
	sum, ok := strings.CutPrefix(t.Hash, hashPrefix)
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("hash: want %s and 64 hex digits", hashPrefix)
	}
	return nil
}

func checkText(field, v string) error {
	if v == "" || len(v) > maxName || strings.TrimSpace(v) != v {
		return fmt.Errorf("%s %q: want 1 to %d bytes without space around", field, v, maxName)
	}
	for _, r := range v {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s %q: want printable characters", field, v)
		}
	}
	return nil
}

// parseTokens reads the lines of a token file. A problem names its line, and
// never shows the line itself: a secret may stand in it by mistake.
func parseTokens(data []byte) ([]Token, error) {
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("is larger than %d bytes", maxFileBytes)
	}
	var list []Token
	names, ids, hashes := map[string]bool{}, map[string]bool{}, map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxFileBytes)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var t Token
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&t); err != nil || dec.More() {
			return nil, fmt.Errorf("line %d is not a token: want one JSON object with id, name, subject, scopes, hash, created and perhaps expires", n)
		}
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch {
		case names[t.Name]:
			return nil, fmt.Errorf("line %d: a second token with the name %q", n, t.Name)
		case ids[t.ID], hashes[t.Hash]:
			return nil, fmt.Errorf("line %d: token %s is there twice", n, t.ID)
		case len(list) == maxTokens:
			return nil, fmt.Errorf("line %d: more than %d tokens", n, maxTokens)
		}
		names[t.Name], ids[t.ID], hashes[t.Hash] = true, true, true
		list = append(list, t)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return list, nil
}

// ReadTokens returns the tokens of a file. A missing file is fs.ErrNotExist.
func ReadTokens(path string) ([]Token, error) {
	list, _, err := readTokens(path)
	return list, err
}

func readTokens(path string) ([]Token, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("token file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("token file: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, info, fmt.Errorf("token file %s may be written by others (mode %04o): chmod 600 it, and check that every token in it is yours", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, info, fmt.Errorf("token file: %w", err)
	}
	list, err := parseTokens(data)
	if err != nil {
		return nil, info, fmt.Errorf("token file %s: %w", path, err)
	}
	return list, info, nil
}

// AddToken adds t to the file and creates the file (mode 0600) if it is absent.
// When it returns, the change is on disk.
func AddToken(path string, t Token) error {
	if err := t.check(); err != nil {
		return err
	}
	line, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return rewrite(path, true, func(old []byte, list []Token) ([]byte, error) {
		for _, other := range list {
			if other.Name == t.Name {
				return nil, fmt.Errorf("there is a token with the name %q already (%s): choose another name or revoke it first", t.Name, other.ID)
			}
			if other.Hash == t.Hash {
				return nil, fmt.Errorf("the same token is there already, with the name %q", other.Name)
			}
		}
		if len(old) > 0 && old[len(old)-1] != '\n' {
			old = append(old, '\n')
		}
		return append(append(old, line...), '\n'), nil
	})
}

// ErrNoToken is returned by [RevokeToken] for a token that is not there.
var ErrNoToken = errors.New("no such token")

// RevokeToken removes the token with the given name or id from the file and
// returns it. When it returns, the change is on disk.
func RevokeToken(path, nameOrID string) (Token, error) {
	var gone Token
	err := rewrite(path, false, func(old []byte, list []Token) ([]byte, error) {
		for _, t := range list {
			if t.Name == nameOrID || t.ID == nameOrID && gone.ID == "" {
				gone = t
			}
		}
		if gone.ID == "" {
			return nil, fmt.Errorf("%w: %q", ErrNoToken, nameOrID)
		}
		var kept bytes.Buffer
		for line := range bytes.Lines(old) {
			var t Token
			if json.Unmarshal(bytes.TrimSpace(line), &t) == nil && t.ID == gone.ID {
				continue
			}
			kept.Write(line)
		}
		return kept.Bytes(), nil
	})
	return gone, err
}

// rewrite replaces the file by what edit makes of it: complete or not at all.
// Commands that run at the same time wait for each other.
func rewrite(path string, create bool, edit func(old []byte, list []Token) ([]byte, error)) error {
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	defer unlock()
	var old []byte
	list, _, err := readTokens(path)
	switch {
	case create && errors.Is(err, fs.ErrNotExist):
		old = []byte("# Bearer tokens of an erlmcp server, one per line; `erlmcp token` edits this file. Only hashes are kept.\n")
	case err != nil:
		return err
	default:
		if old, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("token file: %w", err)
		}
	}
	data, err := edit(old, list)
	if err != nil {
		return err
	}
	if _, err := parseTokens(data); err != nil {
		return fmt.Errorf("token file %s: %w", path, err)
	}
	return replaceFile(path, data)
}

// replaceFile writes data durably under a name beside path, then renames.
func replaceFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("token file: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}
