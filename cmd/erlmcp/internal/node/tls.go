package node

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificatePause is how often the files of a certificate are looked at.
const certificatePause = time.Second

// certificate is a TLS certificate that follows its files: a renewal takes effect without a restart, and files that cannot be used are
// reported while the certificate before them stays in use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	seen    [2]fs.FileInfo
	checked time.Time
}

// loadCertificate reads the files for the first time; then they must be right.
func loadCertificate(certFile, keyFile string, log *slog.Logger, now func() time.Time) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, now: now, checked: now()}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("server.tls: %w", err)
	}
	return c, nil
}

func (c *certificate) load() error {
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		c.seen[i] = info
	}
	if mode := c.seen[1].Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s may be used by everybody on this machine (mode %04o): chmod 600 it", c.keyFile, mode)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	if left := pair.Leaf.NotAfter.Sub(c.now()); left <= 0 {
		c.log.Warn("the TLS certificate expired; clients will refuse it", "file", c.certFile, "expired", pair.Leaf.NotAfter)
	}
	c.current = &pair
	return nil
}

// reload uses the files as they are now, if they changed or force is set.
func (c *certificate) reload(force bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = c.now()
	changed := force
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil || !os.SameFile(info, c.seen[i]) || !info.ModTime().Equal(c.seen[i].ModTime()) || info.Size() != c.seen[i].Size() {
			changed = true
		}
	}
	if !changed {
		return
	}
	if err := c.load(); err != nil {
		c.log.Error("the new TLS certificate cannot be used; the one before stays in use", "error", err)
		return
	}
	c.log.Info("TLS certificate loaded", "file", c.certFile, "expires", c.current.Leaf.NotAfter)
}

// config is for a listener.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.Lock()
			due := c.now().Sub(c.checked) >= certificatePause
			c.mu.Unlock()
			if due {
				c.reload(false)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.current, nil
		},
	}
}
