package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fabric is an Ethernet switch in this process: every member's network namespace hangs on it with a TAP device, and so does the test
// itself. Each direction between two ports can lose and delay frames by itself. It needs network namespaces, iproute2 and
// /dev/net/tun, and none of the kernel's traffic shaping, which many kernels lack.
type fabric struct {
	t      *testing.T
	id     int
	n      int // members; port n is the test's
	taps   []*os.File
	ways   [][]atomic.Pointer[way]
	lines  [][]chan parcel
	closed chan struct{}
	work   sync.WaitGroup
	frames atomic.Int64
}

// way is what happens to frames in one direction; nil: nothing does.
type way struct {
	loss  float64 // share of frames, 1: all
	delay time.Duration
}

// parcel is a frame that is delivered later.
type parcel struct {
	at    time.Time
	frame []byte
}

const (
	frameSize = 9000 + 14
	lineFull  = 4096 // frames on their way in one direction; more are lost, as in a router
)

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newFabric skips the test where it is not permitted.
func newFabric(t *testing.T, members int) *fabric {
	f := &fabric{t: t, id: os.Getpid() % 10000, n: members, closed: make(chan struct{})}
	t.Cleanup(f.close)
	for i := range members + 1 {
		if err := f.plug(i); err != nil {
			t.Skipf("SKIPPED: network namespaces or TAP devices are not permitted here, or iproute2 is missing (run as root with iproute2 and /dev/net/tun): %v", err)
		}
	}
	for range f.taps {
		f.ways = append(f.ways, make([]atomic.Pointer[way], len(f.taps)))
		var lines []chan parcel
		for j := range f.taps {
			line := make(chan parcel, lineFull)
			lines = append(lines, line)
			f.work.Go(func() { f.deliver(line, j) })
		}
		f.lines = append(f.lines, lines)
	}
	for i := range f.taps {
		f.work.Go(func() { f.forward(i) })
	}
	return f
}

func (f *fabric) space(i int) string { return fmt.Sprintf("ec%d-%d", f.id, i) }

func (f *fabric) address(i int) string {
	host := i + 1
	if i == f.n {
		host = 254
	}
	return fmt.Sprintf("10.%d.%d.%d", 64+f.id%128, f.id%250, host)
}

func mac(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i+1) }

// plug makes the device of a port and puts it where it belongs. Everybody knows everybody's hardware address: nothing is asked for
// on a network that loses the answer.
func (f *fabric) plug(i int) error {
	name := fmt.Sprintf("ect%d-%d", f.id, i)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("make a TAP device: %w", err)
	}
	f.taps = append(f.taps, os.NewFile(uintptr(fd), name))
	var steps [][]string
	in := func(args ...string) []string { return args }
	if i < f.n {
		steps = [][]string{{"netns", "add", f.space(i)}, {"link", "set", name, "netns", f.space(i)}, {"-n", f.space(i), "link", "set", "lo", "up"}}
		in = func(args ...string) []string { return append([]string{"-n", f.space(i)}, args...) }
	}
	steps = append(steps, in("link", "set", name, "address", mac(i)), in("link", "set", name, "mtu", fmt.Sprint(frameSize-14)),
		in("addr", "add", f.address(i)+"/24", "dev", name), in("link", "set", name, "up"))
	for j := range f.n + 1 {
		if j != i {
			steps = append(steps, in("neigh", "replace", f.address(j), "lladdr", mac(j), "nud", "permanent", "dev", name))
		}
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			return err
		}
	}
	return nil
}

func (f *fabric) close() {
	close(f.closed)
	for _, tap := range f.taps {
		_ = tap.Close() // the device goes with it
	}
	f.work.Wait()
	for i := range f.n {
		_ = ip("netns", "del", f.space(i))
	}
}

// forward reads one port and sends what it reads on its way.
func (f *fabric) forward(from int) {
	buf := make([]byte, frameSize)
	for {
		n, err := f.taps[from].Read(buf)
		if err != nil {
			return
		}
		to := int(buf[5]) - 1
		if n < 14 || buf[0] != 2 || to < 0 || to >= len(f.taps) || to == from {
			continue // multicast and whatever else a kernel likes to say
		}
		f.frames.Add(1)
		w := f.ways[from][to].Load()
		switch {
		case w == nil:
			_, _ = f.taps[to].Write(buf[:n])
		case w.loss > 0 && rand.Float64() < w.loss: //nolint:gosec // loss is not a secret
		default:
			select {
			case f.lines[from][to] <- parcel{time.Now().Add(w.delay), append([]byte(nil), buf[:n]...)}:
			default:
			}
		}
	}
}

// deliver hands over the delayed frames of one direction.
func (f *fabric) deliver(line chan parcel, to int) {
	for {
		select {
		case p := <-line:
			select {
			case <-time.After(time.Until(p.at)):
				_, _ = f.taps[to].Write(p.frame)
			case <-f.closed:
				return
			}
		case <-f.closed:
			return
		}
	}
}

// set decides what happens to frames from one port to another.
func (f *fabric) set(from, to int, w way) { f.ways[from][to].Store(&w) }

// all decides it for everything between members.
func (f *fabric) all(w way) {
	for i := range f.n {
		for j := range f.n {
			f.set(i, j, w)
		}
	}
}

// mendAll ends all harm.
func (f *fabric) mendAll() {
	for i := range f.ways {
		for j := range f.ways[i] {
			f.ways[i][j].Store(nil)
		}
	}
}

// cut takes a member off the network of the members, in both directions; the test still reaches it. mend puts it back.
func (f *fabric) cut(i int) {
	for j := range f.n {
		f.set(i, j, way{loss: 1})
		f.set(j, i, way{loss: 1})
	}
}

func (f *fabric) mend(i int) {
	for j := range f.n {
		f.ways[i][j].Store(nil)
		f.ways[j][i].Store(nil)
	}
}

// TestFabricDoesWhatItSays: a network that harmed nothing would let every test below pass.
func TestFabricDoesWhatItSays(t *testing.T) {
	f := newFabric(t, 2)
	ping := func(extra ...string) error {
		args := append([]string{"netns", "exec", f.space(0), "bash", "-c"}, fmt.Sprintf("exec 3<>/dev/tcp/%s/9999", f.address(1)))
		return exec.Command("timeout", append([]string{"1", "ip"}, append(args, extra...)...)...).Run()
	}
	// A refused connection is an answer: quick. A lost one is silence: the time-out's exit code 124.
	code := func() (int, time.Duration) {
		began := time.Now()
		var exit *exec.ExitError
		require.ErrorAs(t, ping(), &exit)
		return exit.ExitCode(), time.Since(began)
	}
	got, _ := code()
	require.Equal(t, 1, got, "two members reach each other")
	f.set(1, 0, way{loss: 1})
	got, _ = code()
	require.Equal(t, 124, got, "the answer is lost")
	f.mendAll()
	f.all(way{delay: 200 * time.Millisecond})
	got, took := code()
	require.Equal(t, 1, got)
	require.GreaterOrEqual(t, took, 400*time.Millisecond, "there and back")
	f.mendAll()
	f.cut(1)
	got, _ = code()
	require.Equal(t, 124, got)
	f.mend(1)
	got, _ = code()
	require.Equal(t, 1, got)
}
