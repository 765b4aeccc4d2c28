// Package nodejs installs what tests need to run JavaScript programs against the server: Node 22 or newer, and the packages
// of packages/package.json in exactly the versions of its lock file, checked by the digests there. No script of a package
// runs during the installation.
//
// Installations are kept in the user's cache directory and shared by all tests; after the first run no network is needed.
package nodejs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// least is the major version of Node that the conformance suite needs.
const least = 22

// ErrUnavailable says that the machine can neither run nor fetch the programs: it has no npm, or npm reaches no registry and
// nothing is in the cache. Any other error is a defect.
var ErrUnavailable = errors.New("nodejs: not available here")

//go:embed packages/package.json packages/package-lock.json node/package.json node/package-lock.json
var manifests embed.FS

// Tools are installed programs.
type Tools struct {
	Node string // path of a node executable, version 22 or newer
	Dir  string // directory that holds node_modules
}

// Module returns the path of a file in an installed package.
func (t *Tools) Module(elem ...string) string {
	return filepath.Join(append([]string{t.Dir, "node_modules"}, elem...)...)
}

// Require installs the programs for a test. Where that is impossible it skips the test, and fails it in continuous
// integration (CI=true), where nobody would notice the skip.
func Require(t testing.TB) *Tools {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	tools, err := Install(ctx)
	switch {
	case err == nil:
		return tools
	case errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true":
		t.Skipf("%v; what runs in Node was NOT tested", err)
	default:
		t.Fatal(err)
	}
	return nil
}

// Install makes sure that the programs are in the cache. It is safe to call from several processes at once.
func Install(ctx context.Context) (*Tools, error) {
	dir, err := install(ctx, "packages")
	if err != nil {
		return nil, err
	}
	if node, err := exec.LookPath("node"); err == nil && major(ctx, node) >= least {
		return &Tools{Node: node, Dir: dir}, nil
	}
	own, err := install(ctx, "node")
	if err != nil {
		return nil, err
	}
	node := filepath.Join(own, "node_modules", ".bin", "node")
	if v := major(ctx, node); v < least {
		return nil, fmt.Errorf("%w: Node %d or newer is needed, and npm has none for this platform; install it by hand", ErrUnavailable, least)
	}
	return &Tools{Node: node, Dir: dir}, nil
}

// major returns the major version of a node executable, 0 if it does not run.
func major(ctx context.Context, node string) int {
	out, err := exec.CommandContext(ctx, node, "--version").Output()
	if err != nil {
		return 0
	}
	text, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
	v, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return v
}

// install puts the packages of one manifest into a directory of the cache named after its lock file.
func install(ctx context.Context, name string) (string, error) {
	lockfile, err := manifests.ReadFile(name + "/package-lock.json")
	if err != nil {
		return "", err
	}
	manifest, err := manifests.ReadFile(name + "/package.json")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(bytes.Clone(manifest), lockfile...))
	dir := filepath.Join(cache, "erlmcp", "nodejs-"+name+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	done := filepath.Join(dir, "installed") // a killed npm leaves half a tree
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	for file, data := range map[string][]byte{"package.json": manifest, "package-lock.json": lockfile} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			return "", err
		}
	}
	if err := npm(ctx, dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(done, nil, 0o600)
}

// lock waits until no other process installs into the same directory.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

func npm(ctx context.Context, dir string) error {
	path, err := exec.LookPath("npm")
	if err != nil {
		return fmt.Errorf("%w: npm is not installed", ErrUnavailable)
	}
	cmd := exec.CommandContext(ctx, path, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if unreachable(string(out)) || ctx.Err() != nil {
		return fmt.Errorf("%w: npm reached no registry: %w\n%s", ErrUnavailable, err, out)
	}
	return fmt.Errorf("nodejs: npm ci in %s: %w\n%s", dir, err, out)
}

// unreachable tells a missing network from everything else that npm complains about.
func unreachable(output string) bool {
	for _, sign := range []string{
		"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH", "ERR_SOCKET_TIMEOUT", "ENOTCACHED",
	} {
		if strings.Contains(output, sign) {
			return true
		}
	}
	return false
}
