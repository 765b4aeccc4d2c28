package tcps

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/erlmcp/erlmcp/engine"
)

// Options configure a Ledger. The zero value works.
type Options struct {
	// Rand feeds ids; default crypto/rand.Reader. The ledger serialises its use.
	Rand io.Reader
	// BlockSeverities are the andon severities that stop a SKU and its orders. Default: all of them.
	BlockSeverities []Severity
	// WIPLimits replaces the default WIP limits of buckets (5, features 10) until SetWIPLimit is called
	// for the bucket. Negative is no limit.
	WIPLimits map[Bucket]int
	// ClockSkew is how far in the future a receipt's timestamp may lie before it counts as tampering;
	// default 5 s, the drift one accepts between machines with NTP.
	ClockSkew time.Duration
	// MaxGap is the longest pause between neighbouring receipts of a SKU chain; default 24 h.
	MaxGap time.Duration
	// SigningKey signs stored receipts (Ed25519). Nil: receipts are not signed.
	SigningKey ed25519.PrivateKey
	// VerifyKey checks signatures; default: the public half of SigningKey. Nil: signatures are not checked.
	VerifyKey ed25519.PublicKey
	// AllowDelete permits DeleteWorkOrder; meant for tests and clean-up after imports.
	AllowDelete bool
}

// Ledger is the production ledger over one store. It is safe for concurrent
// use and keeps no state that matters: any number of Ledgers may share a store.
type Ledger struct {
	store *engine.Store
	o     Options

	randMu sync.Mutex
	ticks  atomic.Int64 // the last value tick returned
}

// New returns the ledger in store. The store must have been opened with
// [Indexes]; if it was not, New says so.
func New(store *engine.Store, o Options) (*Ledger, error) {
	if store == nil {
		return nil, errors.New("tcps: no store")
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.ClockSkew == 0 {
		o.ClockSkew = 5 * time.Second
	}
	if o.MaxGap == 0 {
		o.MaxGap = 24 * time.Hour
	}
	if o.BlockSeverities == nil {
		o.BlockSeverities = Severities()
	}
	for b := range o.WIPLimits {
		if _, err := ParseBucket(string(b)); err != nil {
			return nil, fmt.Errorf("tcps: options: WIPLimits: %w", err)
		}
	}
	switch {
	case len(o.SigningKey) != 0 && len(o.SigningKey) != ed25519.PrivateKeySize:
		return nil, errors.New("tcps: options: SigningKey is not an Ed25519 private key")
	case len(o.VerifyKey) != 0 && len(o.VerifyKey) != ed25519.PublicKeySize:
		return nil, errors.New("tcps: options: VerifyKey is not an Ed25519 public key")
	case len(o.SigningKey) != 0 && len(o.VerifyKey) == 0:
		o.VerifyKey, _ = o.SigningKey.Public().(ed25519.PublicKey)
	}
	l := &Ledger{store: store, o: o}
	err := store.View(context.Background(), func(tx *engine.Tx) error {
		for _, ix := range Indexes() {
			if err := tx.ScanIndex(ix.Name, engine.Range{Limit: 1}, func(_, _, _ []byte) bool { return false }); err != nil {
				return fmt.Errorf("tcps: index %s is missing, open the store with tcps.Indexes(): %w", ix.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

type contextKey int

const (
	actorKey contextKey = iota
	idempotencyKey
)

// WithActor names who makes the changes done with ctx. It is stored in the
// change log and in the engine's log; default "system".
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey, actor)
}

// WithIdempotencyKey makes the next mutation done with ctx happen at most once:
// a repetition with the same key and input returns the first result, the same
// key with another operation or input is idempotency_mismatch. Use 1 to 512
// bytes and one key per intended change.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey, key)
}

// systemActor is recorded when nobody is named.
const systemActor = "system"

func actorOf(ctx context.Context) string {
	a, _ := ctx.Value(actorKey).(string)
	a = strings.ToValidUTF8(strings.TrimSpace(a), "?")
	if a == "" {
		return systemActor
	}
	if len(a) > 256 {
		a = strings.ToValidUTF8(a[:256], "")
	}
	return a
}

// op is one running mutation: the transaction and the facts every step needs.
type op struct {
	*Ledger
	tx    *engine.Tx
	name  string
	actor string
	now   time.Time
	at    Time // now in ledger form
}

// recorded wraps a refusal whose side effects must be committed (a refused
// pull signal, a failed gate): the transaction commits and the caller still
// gets the refusal.
type recorded struct{ refusal *Error }

func (r recorded) Error() string { return r.refusal.Error() }

// outcome is what an idempotency key remembers.
type outcome[T any] struct {
	Result *T     `json:"result,omitempty"`
	Error  *Error `json:"error,omitempty"`
}

// mutate runs one ledger operation as one transaction.
func mutate[T any](ctx context.Context, l *Ledger, name string, input any, fn func(o *op) (T, error)) (T, error) {
	var zero, result T
	var refusal *Error
	actor := actorOf(ctx)
	opts := []engine.TxOption{engine.WithActor(actor), engine.WithLabel(name)}
	key, keyed := ctx.Value(idempotencyKey).(string)
	if keyed && key != "" {
		hash, err := requestHash(name, input)
		if err != nil {
			return zero, err
		}
		if len(key) > 512 || strings.ToValidUTF8(key, "") != key {
			return zero, refuse(CodeInvalidIdempotencyKey, "the idempotency key must be 1 to 512 bytes of UTF-8").on("idempotency_key")
		}
		opts = append(opts, engine.WithIdempotencyKey(key, hash))
	}
	res, err := l.store.Update(ctx, func(tx *engine.Tx) error {
		now := tx.Now()
		o := &op{Ledger: l, tx: tx, name: name, actor: actor, now: now, at: TimeOf(now)}
		var out outcome[T]
		v, err := fn(o)
		refusal = nil
		var rec recorded
		switch {
		case errors.As(err, &rec):
			refusal, out.Error = rec.refusal, rec.refusal
		case err != nil:
			return err
		default:
			result, out.Result = v, &v
		}
		if !keyed || key == "" {
			return nil
		}
		b, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("tcps: %s: outcome: %w", name, err)
		}
		tx.SetOutcome(b)
		return nil
	}, opts...)
	switch {
	case err != nil:
		return zero, opError(name, err)
	case res.Duplicate:
		return replayed[T](name, res.Outcome)
	case refusal != nil:
		return zero, refusal
	}
	return result, nil
}

// replayed returns the result recorded for an idempotency key.
func replayed[T any](name string, raw []byte) (T, error) {
	var out outcome[T]
	if err := json.Unmarshal(raw, &out); err != nil {
		return *new(T), fmt.Errorf("tcps: %s: recorded outcome: %w", name, err)
	}
	switch {
	case out.Error != nil:
		return *new(T), out.Error
	case out.Result == nil:
		return *new(T), fmt.Errorf("tcps: %s: recorded outcome is empty", name)
	}
	return *out.Result, nil
}

// opError passes refusals on unchanged and says which operation an engine error
// belongs to.
func opError(name string, err error) error {
	var refusal *Error
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, engine.ErrIdempotencyMismatch):
		return refuse(CodeIdempotencyMismatch, "this idempotency key was used before for a different request; use a new key for a new change").on("idempotency_key")
	}
	return fmt.Errorf("tcps: %s: %w", name, err)
}

// requestHash identifies an operation and its input.
func requestHash(name string, input any) ([]byte, error) {
	raw, err := canonical(map[string]any{"operation": name, "input": input})
	if err != nil {
		return nil, refuse(CodeInvalidField, "the input cannot be represented: %v", err)
	}
	h := sha256.Sum256(raw)
	return h[:], nil
}

// view runs fn on one consistent snapshot.
func (l *Ledger) view(ctx context.Context, name string, fn func(o *op) error) error {
	err := l.store.View(ctx, func(tx *engine.Tx) error {
		now := tx.Now()
		return fn(&op{Ledger: l, tx: tx, name: name, actor: actorOf(ctx), now: now, at: TimeOf(now)})
	})
	if err != nil {
		return opError(name, err)
	}
	return nil
}

// random returns a number below n (n <= 2^32), from the injected source.
func (l *Ledger) random(n uint64) (uint64, error) {
	var b [8]byte
	l.randMu.Lock()
	defer l.randMu.Unlock()
	if _, err := io.ReadFull(l.o.Rand, b[:]); err != nil {
		return 0, fmt.Errorf("tcps: random source: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]) % n, nil
}

// uuid returns a random (version 4) UUID.
func (l *Ledger) uuid() (string, error) {
	var b [16]byte
	l.randMu.Lock()
	defer l.randMu.Unlock()
	if _, err := io.ReadFull(l.o.Rand, b[:]); err != nil {
		return "", fmt.Errorf("tcps: random source: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// tick returns unix microseconds that never repeat within this ledger. The
// engine's clock has milliseconds; without this, orders created in the same one
// would lose their first-in-first-out order.
func (l *Ledger) tick(now time.Time) int64 {
	for {
		last := l.ticks.Load()
		next := max(now.UnixMicro(), last+1)
		if l.ticks.CompareAndSwap(last, next) {
			return next
		}
	}
}

// freshID returns "<prefix>-<unix µs>-<6 digits>" (as often as groups says) not
// used in table yet.
func (o *op) freshID(table, prefix string, groups int) (string, error) {
	// A collision needs two ids in one microsecond with the same six digits; eight of them in a row mean that
	// the random source is broken.
	for range 8 {
		id := fmt.Sprintf("%s-%d", prefix, o.tick(o.now))
		for range groups {
			n, err := o.random(1_000_000)
			if err != nil {
				return "", err
			}
			id += fmt.Sprintf("-%06d", n)
		}
		used, err := o.exists(table, id)
		if err != nil {
			return "", err
		}
		if !used {
			return id, nil
		}
	}
	return "", fmt.Errorf("tcps: no free id with prefix %s: the random source repeats itself", prefix)
}

func (o *op) exists(table, id string) (bool, error) {
	_, err := o.tx.Get(table, []byte(id))
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// load reads, verifies and decodes one document; absent is the given refusal.
func (o *op) load(table, id string, d document, absent Code, what string) error {
	raw, err := o.tx.Get(table, []byte(id))
	if errors.Is(err, engine.ErrNotFound) {
		return refuse(absent, "there is no %s %q; check the id", what, id).with("id", id)
	}
	if err != nil {
		return err
	}
	return openAt(table, id, raw, d)
}

// openAt opens a document and says where it was stored if it is damaged.
func openAt(table, id string, raw []byte, d document) error {
	err := open(raw, d)
	var e *Error
	if errors.As(err, &e) {
		e.Message = fmt.Sprintf("%s %s: %s; run \"erlmcp verify\" for the extent of the damage", table, id, e.Message)
		return e.with("table", table).with("key", id)
	}
	return err
}

// loadOrder reads a work order.
func (o *op) loadOrder(id string, absent Code) (*WorkOrder, error) {
	if err := checkID("id", id); err != nil {
		return nil, err
	}
	w := new(WorkOrder)
	if err := o.load(TableWorkOrders, id, w, absent, "work order"); err != nil {
		return nil, err
	}
	return w, nil
}

// saveOrder stores a changed work order and its change-log entry.
func (o *op) saveOrder(w *WorkOrder, action Action) error {
	w.Revision++
	w.UpdatedAt = o.at
	return o.save(TableWorkOrders, w.ID, w, EntityWorkOrder, action, w.Revision)
}

// save seals and stores a document together with its change-log entry.
func (o *op) save(table, id string, d document, e Entity, action Action, revision uint64) error {
	raw, err := seal(d)
	if err != nil {
		return err
	}
	if err := o.tx.Put(table, []byte(id), raw); err != nil {
		return err
	}
	return o.logChange(e, id, action, revision)
}
