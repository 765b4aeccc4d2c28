package replication

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/erlmcp/erlmcp/engine"
	"github.com/erlmcp/erlmcp/snapshot"
	"github.com/erlmcp/erlmcp/wal"
)

// FetchOptions say where the state of the cluster comes from and where it goes.
type FetchOptions struct {
	// Dial connects to the transfer service (Node.ServeTransfer) of some member. It is called again when a connection
	// breaks; it should then prefer the same member, which can resume.
	Dial func(ctx context.Context) (net.Conn, error)
	// Dir is the directory of the new store: absent, empty, or left by an interrupted Fetch.
	Dir string
	// Engine as the store will be opened with.
	Engine engine.Options
	// AtLeast is an index that must be in the state: Kept.Last of the store that is replaced.
	AtLeast uint64
	// Tries bounds how often a broken connection is resumed or begun anew; default 20. Wait is how long it waits in
	// between; default 200 ms.
	Tries int
	Wait  time.Duration
	// Progress hears of received bytes; may be nil.
	Progress func(bytes int64)
}

// Fetched is what Fetch did.
type Fetched struct {
	Index    uint64
	Rows     uint64
	Bytes    int64
	Resumed  int
	Duration time.Duration
}

var stableKeys = []string{stablePrefix + "CurrentTerm", stablePrefix + "LastVoteTerm", stablePrefix + "LastVoteCand"}

// Kept is what must not be lost of a store that is replaced: raft's term and vote, and how far its log goes.
type Kept struct {
	Last   uint64
	values map[string][]byte
}

// KeptOf reads it out of the log of a stopped store.
func KeptOf(walDir string, o wal.Options) (k Kept, err error) {
	log, err := wal.Open(walDir, o)
	if err != nil {
		return k, fmt.Errorf("replication: read term and vote: %w", err)
	}
	k.Last, k.values = log.LastIndex(), map[string][]byte{}
	for _, key := range stableKeys {
		if v, ok := log.Meta(key); ok {
			k.values[key] = v
		}
	}
	return k, log.Close()
}

// Keep writes it into the log of the store that Fetch made, before Install.
func (k Kept) Keep(walDir string, o wal.Options) error {
	log, err := wal.Open(walDir, o)
	if err != nil {
		return fmt.Errorf("replication: keep term and vote: %w", err)
	}
	if log.LastIndex() < k.Last {
		err = fmt.Errorf("%w: the new state is of entry %d, the old log goes to %d", ErrTransfer, log.LastIndex(), k.Last)
	}
	for _, key := range stableKeys {
		if v, ok := k.values[key]; ok && err == nil {
			err = log.SetMeta(key, v)
		}
	}
	return errors.Join(err, log.Close())
}

// Fetch builds a store in o.Dir out of the state of another member. Everything is verified before the directory becomes a
// store: every block, the counts, the state hash. After an error there is nothing in it that opens.
func Fetch(ctx context.Context, o FetchOptions) (Fetched, error) {
	if o.Tries == 0 {
		o.Tries = 20
	}
	if o.Wait == 0 {
		o.Wait = 200 * time.Millisecond
	}
	if o.Engine.FS == nil {
		o.Engine.FS = vfs.Default
	}
	began := time.Now()
	var total Fetched
	for {
		in := &incoming{ctx: ctx, o: &o}
		f, err := in.build()
		in.close()
		total.Resumed += in.resumed
		if err == nil {
			f.Resumed, f.Duration = total.Resumed, time.Since(began)
			return f, nil
		}
		o.Tries--
		if o.Tries <= 0 || ctx.Err() != nil || !errors.Is(err, errAnew) && !errors.Is(err, snapshot.ErrCorrupt) {
			return total, fmt.Errorf("%w: %w", ErrTransfer, err)
		}
	}
}

// errAnew: the sender does not know the transfer any more.
var errAnew = errors.New("the transfer has to begin anew")

// incoming reads one snapshot over as many connections as it takes. Not for concurrent use.
type incoming struct {
	ctx     context.Context
	o       *FetchOptions
	conn    net.Conn
	r       *bufio.Reader
	session string
	offset  int64
	resumed int
}

func (in *incoming) close() {
	if in.conn != nil {
		_ = in.conn.Close()
		in.conn, in.r = nil, nil
	}
}

func (in *incoming) Read(p []byte) (int, error) {
	for {
		if err := in.ctx.Err(); err != nil {
			return 0, err
		}
		err := in.connect()
		if err == nil {
			var n int
			_ = in.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			n, err = in.r.Read(p)
			if n > 0 {
				in.offset += int64(n)
				if in.o.Progress != nil {
					in.o.Progress(in.offset)
				}
				return n, nil
			}
		}
		in.close()
		if errors.Is(err, errAnew) || in.o.Tries <= 1 {
			return 0, err
		}
		in.o.Tries--
		in.resumed++
		select {
		case <-time.After(in.o.Wait):
		case <-in.ctx.Done():
			return 0, in.ctx.Err()
		}
	}
}

func (in *incoming) connect() error {
	if in.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(in.ctx, 10*time.Second)
	defer cancel()
	c, err := in.o.Dial(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	in.conn, in.r = c, bufio.NewReaderSize(c, 256<<10)
	_ = c.SetDeadline(time.Now().Add(40 * time.Second)) // the sender waits up to 20 s for its barrier
	b, _ := json.Marshal(transferAsk{Session: in.session, Offset: in.offset, AtLeast: in.o.AtLeast})
	if _, err := c.Write(append(b, '\n')); err != nil {
		return err
	}
	line, err := in.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	var answer transferAnswer
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("%w: answer", errFormat)
	}
	switch {
	case answer.Gone:
		return errAnew
	case answer.Error != "":
		return fmt.Errorf("the other member says: %s", answer.Error)
	}
	in.session = answer.Session
	return nil
}

func (in *incoming) build() (f Fetched, err error) {
	r, err := snapshot.NewReader(in, snapshot.ReaderOptions{})
	if err != nil {
		return f, err
	}
	h := r.Header()
	m, err := decodeMark(h.Membership)
	if err != nil {
		return f, err
	}
	if m.index != h.Index || m.term != h.Term || h.Index == 0 || h.Term == 0 {
		return f, fmt.Errorf("%w: the members are those of entry %d, the rows of entry %d", errFormat, m.index, h.Index)
	}
	b, err := engine.NewBuilder(in.o.Dir, in.o.Engine, engine.BuilderStart{Index: h.Index, Term: h.Term})
	if err != nil {
		return f, err
	}
	if err := in.fill(r, b); err != nil {
		return f, errors.Join(err, b.Abort())
	}
	if err := b.SetMeta(markKey, h.Membership); err != nil {
		return f, errors.Join(err, b.Abort())
	}
	footer := r.Footer()
	if err := b.Finish(footer.StateHash); err != nil {
		return f, err
	}
	return Fetched{Index: h.Index, Rows: footer.Rows, Bytes: in.offset}, nil
}

func (in *incoming) fill(r *snapshot.Reader, b *engine.Builder) error {
	var row engine.Row
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		row = engine.Row{Table: e.Table, Key: e.Key, Value: e.Value, ModIndex: e.ModIndex}
		if e.Deadline != 0 {
			row.Deadline = time.UnixMilli(e.Deadline)
		}
		if err := b.Add(&row); err != nil {
			return err
		}
	}
}

// installing marks, in the folder that a fetched store lies in, that it is complete and takes the place of the old one.
const installing = "INSTALL"

// Install puts the store that Fetch made in from in the place of the one in dir. After a crash at any moment,
// FinishInstall completes it. Neither store may be open. from must be on the same file system.
func Install(fs vfs.FS, dir, from string) error {
	f, err := fs.Create(fs.PathJoin(from, installing), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("replication: install the new state: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), syncDir(fs, from)); err != nil {
		return fmt.Errorf("replication: install the new state: %w", err)
	}
	return FinishInstall(fs, dir, from)
}

// FinishInstall completes an Install that was interrupted; without one it does nothing. Order: as long as FORMAT of the
// new store has not been moved, wal and store may be a mixture, but dir has no FORMAT either and does not open.
func FinishInstall(fs vfs.FS, dir, from string) error {
	if _, err := fs.Stat(fs.PathJoin(from, installing)); err != nil {
		return nil //nolint:nilerr // nothing to finish
	}
	move := func(name string) error {
		src, dst := fs.PathJoin(from, name), fs.PathJoin(dir, name)
		if _, err := fs.Stat(src); err != nil {
			return nil //nolint:nilerr // moved already
		}
		if err := fs.RemoveAll(dst); err != nil && !isNotExist(err) {
			return err
		}
		if err := syncDir(fs, dir); err != nil {
			return err
		}
		if err := fs.Rename(src, dst); err != nil {
			return err
		}
		return errors.Join(syncDir(fs, dir), syncDir(fs, from))
	}
	// The old FORMAT goes first, the new one comes last.
	if _, err := fs.Stat(fs.PathJoin(from, "wal")); err == nil {
		if err := fs.Remove(fs.PathJoin(dir, "FORMAT")); err != nil && !isNotExist(err) {
			return fmt.Errorf("replication: install the new state: %w", err)
		}
		if err := syncDir(fs, dir); err != nil {
			return fmt.Errorf("replication: install the new state: %w", err)
		}
	}
	// wal is moved after store: as long as it is there, the old FORMAT may have to be removed.
	for _, name := range []string{"store", "wal", "FORMAT"} {
		if err := move(name); err != nil {
			return fmt.Errorf("replication: install the new state: move %s: %w", name, err)
		}
	}
	if err := fs.RemoveAll(from); err != nil {
		return fmt.Errorf("replication: install the new state: %w", err)
	}
	return nil
}

func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
