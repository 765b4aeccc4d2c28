package simdisk

import (
	"path"
	"strings"
	"time"
)

// Forever as Fault.Times makes a fault stay.
const Forever = -1

// Place is where a misdirected write lands.
type Place struct {
	Path string // "": the file that was written
	Off  int64  // bytes from the start of that file
}

// Fault describes what shall go wrong, and when. A fault with neither Err,
// FlipBit nor Misdirect only delays.
type Fault struct {
	Kinds Kind   // operations that are hit
	Glob  string // "": every file; with "/" at the end: everything below; with "/" inside: full path; else base name
	Nth   int    // the first matching operation that is hit, from 1; 0 is 1
	Times int    // how many are hit from there; 0 is 1, Forever is all

	Err       error  // what the operation returns; on a sync it also loses data, see OpSyncFailed
	Short     int64  // write: bytes that still enter the cache before Err; never all of them
	FlipBit   bool   // read: one random bit of the answer is wrong
	Misdirect *Place // write: the bytes reach the disk elsewhere, the cache shows them in place

	Delay time.Duration // waited through Options.Sleep, outside all locks
	Hook  func(Op)      // called before the operation takes effect, outside all locks; may block
}

// Rule is a fault that was installed on a disk.
type Rule struct {
	d     *Disk
	f     Fault
	seen  int
	fired int
}

// Inject installs a fault. Rules are tried in the order of their installation;
// the first that fires decides.
func (d *Disk) Inject(f Fault) *Rule {
	if f.Nth == 0 {
		f.Nth = 1
	}
	if f.Times == 0 {
		f.Times = 1
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &Rule{d: d, f: f}
	d.rules = append(d.rules, r)
	return r
}

// Fired returns how many operations the rule has hit.
func (r *Rule) Fired() int {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	return r.fired
}

// Remove takes the rule from its disk.
func (r *Rule) Remove() {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	for i, x := range r.d.rules {
		if x == r {
			r.d.rules = append(r.d.rules[:i:i], r.d.rules[i+1:]...)
			return
		}
	}
}

// match counts an operation against all rules and returns the fault that hits
// it, or nil.
func (d *Disk) match(k Kind, name string) *Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	var hit *Fault
	for _, r := range d.rules {
		if r.f.Kinds&k == 0 || !globMatch(r.f.Glob, clean(name)) {
			continue
		}
		r.seen++
		due := r.seen >= r.f.Nth && (r.f.Times == Forever || r.seen < r.f.Nth+r.f.Times)
		if due && hit == nil {
			r.fired++
			hit = &r.f
		}
	}
	return hit
}

// wait delays an operation. d.mu must not be held.
func (d *Disk) wait(f *Fault, op Op) {
	if f.Hook != nil {
		f.Hook(op)
	}
	if f.Delay > 0 {
		d.opts.Sleep(f.Delay)
	}
}

// fault is match and wait for operations that only can fail.
func (d *Disk) fault(k Kind, name string) error {
	f := d.match(k, name)
	if f == nil {
		return nil
	}
	d.wait(f, Op{Kind: k, Path: clean(name)})
	return f.Err
}

// globMatch reports whether a rule's pattern covers an absolute path.
func globMatch(glob, name string) bool {
	switch {
	case glob == "":
		return true
	case strings.HasSuffix(glob, "/"):
		return strings.HasPrefix(name+"/", clean(glob)+"/")
	case strings.Contains(glob, "/"):
		ok, err := path.Match(clean(glob), name)
		return ok && err == nil
	default:
		ok, err := path.Match(glob, path.Base(name))
		return ok && err == nil
	}
}
