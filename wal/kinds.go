package wal

import (
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkKinds refuses anything but plain files under the names of the log:
// opening a pipe waits for ever, a device has no end, and a link that leads
// nowhere is a file that is missing. With still nobody else changes the
// directory, so what it lists must be there.
func checkKinds(fs vfs.FS, dir string, names []string, still bool) error {
	for _, name := range names {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if oserror.IsNotExist(err) {
			if still {
				return notThere(name, err) // and must not be created by opening it
			}
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
// name may be empty: the error has it.
func notThere(name string, err error) error {
	if !oserror.IsNotExist(err) {
		return err
	}
	return &CorruptError{Finding{
		Kind: KindMissingSegment, Severity: SeverityDamage, File: name,
		Message: fmt.Sprintf("a file of the log is listed in its directory, but is not there; perhaps it is a link that leads nowhere: %v", err), Advice: adviceFile,
	}}
}
