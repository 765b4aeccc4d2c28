package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/erlmcp/erlmcp/backupfmt"
	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/shard"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Target is a repository and what it takes to open it. It holds secrets: it is never logged, and String leaves them out.
type Target struct {
	Location store.Location
	Secret   []byte           // passphrase or key; nil: none given
	Plain    bool             // the repository is not encrypted, and that was said aloud
	Signer   *sign.PrivateKey // signs what is written; nil: nobody does
	Trust    sign.Trust       // only what one of these keys, or Signer, signed counts; none of either: signatures are not looked at
	PackSize int64            // of new packs, in bytes; 0: backupfmt's default
	AtLeast  backupfmt.Mark   // a repository that ends before this link is refused; zero: none is
	Rate     int64            // bytes per second, reads and writes together; 0: no limit

	Now func() time.Time    `json:"-"` // default time.Now
	At  store.Store         `json:"-"` // used in place of Location, if set
	Env func(string) string `json:"-"` // where keys of further buckets come from; default os.Getenv
}

// String names the repository without secrets.
func (t Target) String() string {
	if t.At != nil {
		return t.At.String()
	}
	return t.Location.String()
}

func (t Target) options() backupfmt.Options {
	return backupfmt.Options{Secret: t.Secret, Plain: t.Plain, Now: t.Now, Signer: t.Signer, Trust: t.Trust, PackSize: int(t.PackSize)}
}

// Store opens where the repository is, whether there is one or not.
func (t Target) Store(ctx context.Context, create bool) (store.Store, error) {
	st := t.At
	if st == nil {
		var err error
		if st, err = t.Location.Open(ctx, create); err != nil {
			return nil, err
		}
	}
	st, err := shard.Open(ctx, st, t.place)
	if err != nil {
		return nil, err
	}
	if t.Rate > 0 {
		return store.Limit(st, t.Rate), nil
	}
	return st, nil
}

// place opens another place of a repository whose packs are spread. Without keys of its own a bucket gets those of the first one.
func (t Target) place(ctx context.Context, location string) (store.Store, error) {
	env := t.Env
	if env == nil {
		env = os.Getenv
	}
	l, err := store.ParseLocation(location, env)
	if err != nil {
		return nil, err
	}
	if l.S3 != nil && l.S3.AccessKey == "" && t.Location.S3 != nil {
		l.S3.AccessKey, l.S3.SecretKey, l.S3.Token = t.Location.S3.AccessKey, t.Location.S3.SecretKey, t.Location.S3.Token
	}
	return l.Open(ctx, false)
}

// Open opens the repository.
func (t Target) Open(ctx context.Context) (*backupfmt.Repo, error) {
	st, err := t.Store(ctx, false)
	if errors.Is(err, store.ErrNoStore) {
		return nil, fmt.Errorf("%w: %w", backupfmt.ErrNotRepo, err)
	}
	if err != nil {
		return nil, err
	}
	r, err := backupfmt.Open(ctx, st, t.options())
	if err == nil {
		r.Expect(t.AtLeast)
	}
	return r, err
}

// Init makes the repository. isKey: the secret is a key of keys.KeySize bytes, which needs no stretching; else kdf stretches it.
func (t Target) Init(ctx context.Context, kdf keys.KDF, label string) (*backupfmt.Repo, error) {
	st, err := t.Store(ctx, true)
	if err != nil {
		return nil, err
	}
	return backupfmt.Init(ctx, st, backupfmt.InitOptions{Options: t.options(), KDF: kdf, Label: label})
}
