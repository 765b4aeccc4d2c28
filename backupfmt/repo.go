package backupfmt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/erlmcp/erlmcp/backupfmt/keys"
	"github.com/erlmcp/erlmcp/backupfmt/object"
	"github.com/erlmcp/erlmcp/backupfmt/sign"
	"github.com/erlmcp/erlmcp/backupfmt/store"
)

// Options open a repository. The zero value opens none that is encrypted and refuses one that is not: say which it is.
type Options struct {
	Secret   []byte           // passphrase or content of a key file
	Plain    bool             // the repository is not encrypted, and that is intended
	Now      func() time.Time // default time.Now
	Rand     io.Reader        // default crypto/rand.Reader; must be safe for concurrent use
	Workers  int              // frames compressed or read at once; default 3
	PackSize int              // stored bytes after which a pack is closed; default 16 MiB, 64 KiB..64 MiB

	Signer *sign.PrivateKey // signs what is written; its own signatures are trusted, too
	Trust  sign.Trust       // only what one of these keys signed counts; none and no Signer: signatures are not looked at
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Workers <= 0 {
		o.Workers = 3
	}
	if o.PackSize == 0 {
		o.PackSize = 16 << 20
	}
	o.PackSize = min(max(o.PackSize, 64<<10), 64<<20)
	return o
}

// InitOptions say how a repository is made.
type InitOptions struct {
	Options
	KDF   keys.KDF // zero: keys.Default
	Label string   // of the first key slot
}

// config is the object of that name.
type config struct {
	Format     string    `json:"format"`
	Version    int       `json:"version"`
	Repo       string    `json:"repo"`
	Created    time.Time `json:"created"`
	Encryption string    `json:"encryption"`
	Checksum   string    `json:"checksum"`
}

const (
	configFormat  = "erlmcp-backup"
	configVersion = 1
	encryptNone   = "none"
	encryptGCM    = "aes-256-gcm"
)

// Repo is an open repository. Methods are safe for concurrent use.
type Repo struct {
	st       store.Store
	o        Options
	id       object.ID
	created  time.Time
	ctx      keys.Context
	master   *keys.Master // nil: not encrypted
	chunkKey []byte
	keyless  bool // for scrubs: clear sections are read and not authenticated, nothing is opened

	trust sign.Trust // Options.Trust and the signer's own key

	packBufs  sync.Pool // *[]byte: packs and frames are large and made one after the other
	frameBufs sync.Pool

	mu       sync.Mutex
	epochs   map[uint32]*[32]byte
	epoch    uint32           // newest
	first    uint32           // first one of this generation of keys, if it is not the first generation
	rekeying bool             // keys of the generation before are still needed
	links    map[string]*Link // by digest, hex: what Chain read
	seen     Mark             // newest link that must be there
	table    string           // digest of the table of shards with which the store was opened, once that was found right
}

// at is the same repository, looked at in another way.
func (r *Repo) at(st store.Store) *Repo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Repo{
		st: st, o: r.o, id: r.id, created: r.created, ctx: r.ctx, master: r.master, chunkKey: r.chunkKey, keyless: r.keyless, trust: r.trust,
		epochs: maps.Clone(r.epochs), epoch: r.epoch, first: r.first, rekeying: r.rekeying, seen: r.seen,
	}
}

// ID is the identity of the repository.
func (r *Repo) ID() object.ID { return r.id }

// Store is where the repository is.
func (r *Repo) Store() store.Store { return r.st }

// Encrypted reports whether objects are sealed.
func (r *Repo) Encrypted() bool { return r.master != nil }

func (c config) encode() ([]byte, error) {
	c.Checksum = ""
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("backup: encode config: %w", err)
	}
	sum := blake3.Sum256(b)
	c.Checksum = hex.EncodeToString(sum[:])
	if b, err = json.MarshalIndent(c, "", "  "); err != nil {
		return nil, fmt.Errorf("backup: encode config: %w", err)
	}
	return append(b, '\n'), nil
}

func parseConfig(b []byte) (config, error) {
	var c config
	if err := json.Unmarshal(b, &c); err != nil || c.Format != configFormat {
		return c, fmt.Errorf("%w: config is not one", ErrDamaged)
	}
	if c.Version > configVersion {
		return c, fmt.Errorf("%w: version %d", ErrVersion, c.Version)
	}
	again, err := c.encode()
	if err != nil || !bytes.Equal(again, b) {
		return c, fmt.Errorf("%w: checksum of config", ErrDamaged)
	}
	if c.Encryption != encryptNone && c.Encryption != encryptGCM {
		return c, fmt.Errorf("%w: encryption %q", ErrVersion, c.Encryption)
	}
	_, err = parseID(c.Repo)
	return c, err
}

// Init makes a repository: ErrIsRepo if there is one. Without a secret Options.Plain must be set.
func Init(ctx context.Context, st store.Store, o InitOptions) (*Repo, error) {
	o.Options = o.withDefaults()
	if (len(o.Secret) == 0) != o.Plain {
		return nil, fmt.Errorf("%w: either a secret or Plain must be given", ErrInvalid)
	}
	if o.KDF == (keys.KDF{}) {
		o.KDF = keys.Default
	}
	if err := makeRoom(ctx, st); err != nil {
		return nil, err
	}
	r := &Repo{st: st, o: o.Options, trust: o.trust(), created: o.Now().UTC().Truncate(time.Second), epochs: map[uint32]*[32]byte{}}
	if _, err := io.ReadFull(o.Rand, r.id[:]); err != nil {
		return nil, fmt.Errorf("backup: random id: %w", err)
	}
	c := config{Format: configFormat, Version: configVersion, Repo: r.id.String(), Created: r.created, Encryption: encryptGCM}
	if o.Plain {
		c.Encryption = encryptNone
	}
	b, err := c.encode()
	if err != nil {
		return nil, err
	}
	r.ctx = keys.Context{Repo: r.id, Config: blake3.Sum256(b)}
	if !o.Plain {
		if err := r.firstKeys(ctx, o); err != nil {
			return nil, err
		}
	}
	if err := r.nameChunks(); err != nil {
		return nil, err
	}
	// The configuration comes last: with it the repository exists.
	return r, createTwice(ctx, st, nameConfig, b)
}

// makeRoom refuses a target that holds anything but keys of an interrupted Init.
func makeRoom(ctx context.Context, st store.Store) error {
	var left []string
	err := st.List(ctx, "", func(i store.Info) error {
		switch {
		case i.Name == nameConfig || i.Name == nameConfig+secondCopy:
			return fmt.Errorf("%w: %s", ErrIsRepo, st)
		case strings.HasPrefix(i.Name, folderKeys), strings.HasPrefix(i.Name, folderEpochs):
			left = append(left, i.Name)
			return nil
		}
		return fmt.Errorf("%w: %s is not empty, it holds %s", ErrInvalid, st, i.Name)
	})
	if err != nil {
		return err
	}
	for _, n := range left {
		if err := st.Delete(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repo) firstKeys(ctx context.Context, o InitOptions) error {
	var err error
	if r.master, err = keys.NewMaster(r.ctx, r.o.Rand); err != nil {
		return err
	}
	if _, err := r.AddSlot(ctx, o.Secret, o.KDF, o.Label); err != nil {
		return err
	}
	return r.Rotate(ctx)
}

// createTwice writes an object that has no parity of its own, and its copy.
func createTwice(ctx context.Context, st store.Store, name string, b []byte) error {
	if err := st.Create(ctx, name+secondCopy, b); err != nil {
		return err
	}
	return st.Create(ctx, name, b)
}

// getEither reads an object that has two copies; parse decides whether one is sound.
func getEither(ctx context.Context, st store.Store, name string, parse func([]byte) error) error {
	var errs []error
	for _, n := range []string{name, name + secondCopy} {
		b, _, err := st.Get(ctx, n)
		if err == nil {
			if err = parse(b); err == nil || errors.Is(err, ErrVersion) || errors.Is(err, keys.ErrVersion) {
				return err
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Open opens a repository: ErrNotRepo, ErrKeyRequired, ErrNotEncrypted, ErrWrongKey, ErrVersion.
func Open(ctx context.Context, st store.Store, o Options) (*Repo, error) {
	r := &Repo{st: st, o: o.withDefaults(), trust: o.trust(), epochs: map[uint32]*[32]byte{}}
	var c config
	err := getEither(ctx, st, nameConfig, func(b []byte) (err error) {
		c, err = parseConfig(b)
		r.ctx.Config = blake3.Sum256(b)
		return err
	})
	switch {
	case errors.Is(err, ErrVersion):
		return nil, err
	case errors.Is(err, store.ErrNotFound) && !errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("%w: %s has no config", ErrNotRepo, st)
	case err != nil:
		return nil, fmt.Errorf("backup: open %s: %w", st, err)
	}
	if r.id, err = parseID(c.Repo); err != nil {
		return nil, err
	}
	r.ctx.Repo, r.created = r.id, c.Created
	switch sealed := c.Encryption == encryptGCM; {
	case sealed && len(o.Secret) == 0:
		return nil, ErrKeyRequired
	case !sealed && (len(o.Secret) != 0 || !o.Plain):
		return nil, fmt.Errorf("%w: %s; if that is intended, say so", ErrNotEncrypted, st)
	case sealed:
		if err := r.unlock(ctx, o.Secret); err != nil {
			return nil, err
		}
	}
	return r, r.nameChunks()
}

// borrow takes a buffer from a pool, or makes one.
func borrow(p *sync.Pool, size int) []byte {
	if b, ok := p.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, size)
}

func giveBack(p *sync.Pool, b []byte) { p.Put(&b) }

func (r *Repo) newID() (id object.ID, err error) {
	if _, err = io.ReadFull(r.o.Rand, id[:]); err != nil {
		err = fmt.Errorf("backup: random id: %w", err)
	}
	return id, err
}

// newObject begins an object with a fresh id.
func (r *Repo) newObject(kind object.Kind, clear []byte) (*object.Writer, error) {
	id, err := r.newID()
	if err != nil {
		return nil, err
	}
	return r.object(kind, id, clear)
}

func (r *Repo) object(kind object.Kind, id object.ID, clear []byte) (*object.Writer, error) {
	epoch, key := r.sealing()
	return object.NewWriter(kind, r.id, id, epoch, key, clear)
}

// sealOne makes an object of a clear section and frames, not signed.
func (r *Repo) sealOne(kind object.Kind, clear []byte, frames ...[]byte) (b []byte, d object.Digest, err error) {
	id, err := r.newID()
	if err != nil {
		return nil, d, err
	}
	return r.sealAs(kind, id, clear, nil, frames...)
}

func (r *Repo) sealAs(kind object.Kind, id object.ID, clear, extra []byte, frames ...[]byte) (b []byte, d object.Digest, err error) {
	w, err := r.object(kind, id, clear)
	if err != nil {
		return nil, d, err
	}
	for _, f := range frames {
		p, err := object.Compress(f)
		if err != nil {
			return nil, d, err
		}
		if _, err := w.Add(p); err != nil {
			return nil, d, err
		}
	}
	return w.Finish(extra)
}

// open reads a whole object. Damage within the parity is healed in memory: a restore must not fail for what can be repaired.
func (r *Repo) open(ctx context.Context, name string, kind object.Kind, id *object.ID) (*object.Content, error) {
	b, _, err := r.st.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.openBytes(ctx, name, b, kind, id)
}

func (r *Repo) openBytes(ctx context.Context, name string, b []byte, kind object.Kind, id *object.ID) (*object.Content, error) {
	open := func(b []byte) (*object.Content, error) {
		if r.keyless {
			return object.Inspect(b, kind, r.id, id)
		}
		return object.Open(b, kind, r.id, id, r.opening(ctx))
	}
	c, err := open(b)
	if errors.Is(err, object.ErrDamaged) || errors.Is(err, object.ErrNotObject) {
		h, herr := object.Heal(b)
		if herr != nil || h.Healed == nil {
			return nil, &DamageError{Kind: "damaged", Object: name, Reason: "it is damaged beyond its parity", Cause: errors.Join(err, herr)}
		}
		c, err = open(h.Healed)
	}
	if errors.Is(err, object.ErrForged) {
		return nil, &DamageError{Kind: "forged", Object: name, Reason: "it was not written by this repository's owner, or as another object", Cause: err}
	}
	return c, err
}
