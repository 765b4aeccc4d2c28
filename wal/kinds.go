package wal

import (
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkKinds refuses anything but plain files under the names of the log:
// opening a pipe waits for ever, a device has no end, and a link that leads
// nowhere is a file that is missing.
func checkKinds(fs vfs.FS, dir string, names []string) error {
	for _, name := range names {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if oserror.IsNotExist(err) {
			continue // a running log took it away; who opens it hears of it
		}
		if err != nil {
			return fmt.Errorf("wal: look at %s: %w", name, err)
		}
		if info.Mode().IsRegular() {
			continue
		}
		id, _ := parseSegmentName(name)
		return &CorruptError{Finding{
			Kind: KindNotFile, Severity: SeverityDamage, Segment: id, File: name,
			Message: fmt.Sprintf("%s is not a file (%s)", name, info.Mode().Type()), Advice: adviceKind,
		}}
	}
	return nil
}

// notThere turns the absence of a file that the directory lists into a finding.
func notThere(err error) error {
	if !oserror.IsNotExist(err) {
		return err
	}
	return &CorruptError{Finding{
		Kind: KindMissingSegment, Severity: SeverityDamage,
		Message: fmt.Sprintf("a file of the log is listed in its directory, but is not there; perhaps it is a link that leads nowhere: %v", err), Advice: adviceFile,
	}}
}
