package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/mcp"
)

// errUnknownToken refuses a credential that no line of the file matches.
var errUnknownToken = &tokenError{"the token is unknown or was revoked"}

// reloadPause is how often a change of the file is looked for. It bounds how
// long a revoked token still works.
const reloadPause = time.Second

// Tokens are the static tokens of a file. A change of the file is noticed with
// the first request a second or more after it; [Tokens.Reload] looks at once.
// A file that was removed admits nobody. A file that became unreadable or
// malformed is reported in the log, and the tokens read before stay valid until
// it is mended: a typing error must not lock everybody out.
//
// All methods are safe for concurrent use.
type Tokens struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	list    atomic.Pointer[tokenIndex]
	checked atomic.Int64 // when the file was last looked at, Unix nanoseconds

	mu   sync.Mutex  // held over a reload
	seen fs.FileInfo // of the file that was read, or that could not be
}

type tokenIndex map[[sha256.Size]byte]tokenEntry

type tokenEntry struct {
	hash    [sha256.Size]byte
	expires time.Time
	who     *mcp.Identity
}

// TokensOptions configures [OpenTokens]. Zero fields select the defaults.
type TokensOptions struct {
	Logger *slog.Logger     // default: discard
	Now    func() time.Time // default time.Now
}

// OpenTokens reads the file at path.
func OpenTokens(path string, o TokensOptions) (*Tokens, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &Tokens{path: path, log: o.Logger, now: o.Now}
	list, info, err := readTokens(path)
	if err != nil {
		return nil, err
	}
	t.use(list, info)
	t.checked.Store(t.now().UnixNano())
	return t, nil
}

func (t *Tokens) use(list []Token, info fs.FileInfo) {
	index := make(tokenIndex, len(list))
	for i := range list {
		token := &list[i]
		scopes := token.Scopes
		if scopes == nil {
			scopes = []string{}
		}
		index[token.digest()] = tokenEntry{
			hash: token.digest(), expires: token.Expires,
			who: &mcp.Identity{Subject: token.Subject, Scopes: scopes, Method: "token", Expires: token.Expires},
		}
	}
	t.list.Store(&index)
	t.seen = info
}

// Len returns how many tokens there are, expired ones included.
func (t *Tokens) Len() int { return len(*t.list.Load()) }

// Reload reads the file if it changed. An error leaves the tokens as they are,
// unless the file is gone: then there are none any more.
func (t *Tokens) Reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		if t.seen != nil {
			t.log.Error("the token file is gone: no token is accepted any more", "file", t.path)
		}
		t.use(nil, nil)
		return err
	}
	if err == nil && t.seen != nil && sameFile(info, t.seen) {
		return nil
	}
	list, read, err := readTokens(t.path)
	if err != nil {
		if read != nil {
			t.seen = read // say it once, not every second
		}
		t.log.Error("the token file cannot be used; the tokens read before stay valid", "file", t.path, "error", err)
		return err
	}
	t.use(list, read)
	t.log.Info("tokens reloaded", "file", t.path, "tokens", len(list))
	return nil
}

// sameFile compares what changes when a file is rewritten or replaced.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

// identify returns whom a credential belongs to.
func (t *Tokens) identify(credential string) (*mcp.Identity, error) {
	now := t.now()
	if last := t.checked.Load(); now.UnixNano()-last >= int64(reloadPause) && t.checked.CompareAndSwap(last, now.UnixNano()) {
		_ = t.Reload() // it logs; the tokens in memory decide
	}
	// The look-up takes a time that depends on the hash of the credential only.
	// Nobody can steer that hash towards an entry without knowing the token.
	hash := sha256.Sum256([]byte(credential))
	entry, ok := (*t.list.Load())[hash]
	if !ok || subtle.ConstantTimeCompare(hash[:], entry.hash[:]) != 1 {
		return nil, errUnknownToken
	}
	if !entry.expires.IsZero() && !now.Before(entry.expires) {
		return nil, &tokenError{"the token expired"}
	}
	return entry.who, nil
}
