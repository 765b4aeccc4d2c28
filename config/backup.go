package config

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// BackupKeyEnv and NewBackupKeyEnv are the environment variables with the passphrase of a backup repository, and with the one that
// `erlmcp backup keys add` adds to it.
const (
	BackupKeyEnv    = "ERLMCP_BACKUP_ENCRYPTION_KEY"
	NewBackupKeyEnv = "ERLMCP_BACKUP_NEW_ENCRYPTION_KEY"
)

// Backup holds where backups go and when they are made. Nothing is scheduled while Repository is empty.
type Backup struct {
	Repository    string   // directory or s3://BUCKET/PREFIX; empty: none
	Copies        []string // more places, each a byte-identical copy
	Encryption    bool     // false: the repository is not encrypted, and that is intended
	KeyFile       string   // file with the key or passphrase; empty: BackupKeyEnv
	SignKeyFile   string   // private key that signs what is written; empty: nothing is signed
	VerifyKeyFile string   // public keys whose signatures count; empty: that of SignKeyFile; Off: signatures are not looked at

	PackSize  int64 // bytes after which a pack, the object in which rows are stored, is closed
	LimitRate int64 // bytes per second to and from the repository; 0: no limit

	Full        string        // cron expression, UTC; Off: never
	Incremental time.Duration // 0: never
	Archive     time.Duration // how often the log is shipped; 0: never
	Verify      bool          // check the repository after every full backup
	Scrub       string        // cron expression
	ScrubBudget float64       // share of the stored bytes that a scrub reads, (0,1]
	Drill       string        // cron expression
	MaxProofAge time.Duration // status goes red when the newest good drill is older

	KeepDaily  time.Duration // the newest backup of each day, this far back
	KeepHourly time.Duration // the newest backup of each hour, this far back
	MaxUnused  float64       // share of the stored packs that may be unused before a prune stores them anew
	MaxChain   int64         // incrementals after a full backup
	HoldLog    int64         // bytes of log kept for an archive that cannot be reached
	ScratchDir string        // where drills restore to; empty: the system's temporary directory
}

var backupSettings = []setting{
	textSetting("backup.repository", "", func(c *Config) *string { return &c.Backup.Repository },
		"Where backups go: a directory, or s3://BUCKET/PREFIX (?endpoint=https://HOST&region=R for others than Amazon).",
		"`erlmcp backup init` makes the repository. While this is set the server backs itself up on the schedules below;",
		"empty: nothing is scheduled. Access keys of a bucket come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from",
		"the file named by AWS_SHARED_CREDENTIALS_FILE."),
	listSetting("backup.copies", func(c *Config) *[]string { return &c.Backup.Copies },
		"More places in the same form; each gets a byte-identical copy after every full backup and once an hour."),
	boolSetting("backup.encryption", "on", func(c *Config) *bool { return &c.Backup.Encryption },
		"\"off\" says that the repository is not encrypted and that this is intended.",
		"The passphrase comes from the environment variable ERLMCP_BACKUP_ENCRYPTION_KEY or from backup.key_file."),
	textSetting("backup.key_file", "", func(c *Config) *string { return &c.Backup.KeyFile },
		"File with a 256-bit key (64 hex digits, base64 or 32 raw bytes), or with a passphrase."),
	textSetting("backup.sign_key_file", "", func(c *Config) *string { return &c.Backup.SignKeyFile },
		"File with the private key that signs backups (`erlmcp backup keys sign-generate`), in a repository that is signed",
		"(`erlmcp backup keys sign-begin`). Its password, if it has one, comes from ERLMCP_BACKUP_SIGN_PASSWORD."),
	textSetting("backup.verify_key_file", "", func(c *Config) *string { return &c.Backup.VerifyKeyFile },
		"File with the public keys whose signatures count, one a line: what none of them signed is refused. Empty: the key of",
		"backup.sign_key_file, or, without that, signatures are not looked at; nor are they with \"off\"."),
	sizeSetting("backup.pack_size", "16MiB", 4*mib, 32*mib, func(c *Config) *int64 { return &c.Backup.PackSize },
		"How large the objects are in which rows are stored. Larger ones are fewer; each MiB more takes 4 MiB of memory. In a",
		"bucket objects of more than the part size of the URL (?part_size=24MiB) are uploaded in parts."),
	sizeSetting("backup.limit_rate", "0", 0, tib, func(c *Config) *int64 { return &c.Backup.LimitRate },
		"Bytes per second to and from the repository, 0 for no limit. Drills and restores are not limited."),
	cronSetting("backup.full", "0 2 * * *", func(c *Config) *string { return &c.Backup.Full },
		"When a full backup is made (cron: minute hour day month weekday, UTC), or \"off\". A run that was missed is made up for",
		"once. Unchanged data is not stored again."),
	everySetting("backup.incremental", "5m", time.Minute, func(c *Config) *time.Duration { return &c.Backup.Incremental },
		"How often an incremental backup is made, or \"off\". Without changes nothing is stored and nothing is asked."),
	everySetting("backup.archive", "1s", 100*time.Millisecond, func(c *Config) *time.Duration { return &c.Backup.Archive },
		"How often new log is shipped to the repository, or \"off\". It is what a lost site loses. Without changes nothing is sent."),
	boolSetting("backup.verify", "on", func(c *Config) *bool { return &c.Backup.Verify },
		"Check the repository after every full backup: the chain, and that everything is there."),
	cronSetting("backup.scrub", "30 3 * * *", func(c *Config) *string { return &c.Backup.Scrub },
		"When a share of the repository is read back and checked byte by byte, what was read longest ago first; or \"off\"."),
	shareSetting("backup.scrub_budget", "4%", func(c *Config) *float64 { return &c.Backup.ScrubBudget },
		"The share of the stored bytes that one scrub reads."),
	cronSetting("backup.drill", "0 2 1 * *", func(c *Config) *string { return &c.Backup.Drill },
		"When the newest state is restored into scratch, opened and checked, or \"off\". The proof is kept in the repository."),
	durationSetting("backup.max_proof_age", "840h", time.Hour, 10*365*24*time.Hour,
		func(c *Config) *time.Duration { return &c.Backup.MaxProofAge },
		"The health of the server is degraded when the newest successful drill is older (35 days)."),
	durationSetting("backup.keep_daily", "720h", 0, 100*365*24*time.Hour,
		func(c *Config) *time.Duration { return &c.Backup.KeepDaily },
		"Keep the newest backup of every day this far back (30 days). What a kept backup builds on is kept too."),
	durationSetting("backup.keep_hourly", "168h", 0, 100*365*24*time.Hour,
		func(c *Config) *time.Duration { return &c.Backup.KeepHourly },
		"Keep the newest backup of every hour this far back (7 days)."),
	shareSetting("backup.max_unused", "15%", func(c *Config) *float64 { return &c.Backup.MaxUnused },
		"The share of the stored packs that no kept backup needs any more and that is let be. When it is more, the daily prune",
		"stores what is needed of the emptiest packs anew and removes these. 100%: never."),
	countSetting("backup.max_chain", "24", 1, 1000, func(c *Config) *int64 { return &c.Backup.MaxChain },
		"Incrementals that may follow a full backup; the next one is a full one again. It stores only what changed."),
	sizeSetting("backup.hold_log", "2GiB", 0, tib, func(c *Config) *int64 { return &c.Backup.HoldLog },
		"Log that is kept beyond storage.retain_log until it is archived, when the repository cannot be reached."),
	textSetting("backup.scratch_dir", "", func(c *Config) *string { return &c.Backup.ScratchDir },
		"Where drills restore to; it needs room for the whole store. Empty: the system's temporary directory."),
}

func boolSetting(key, def string, at func(*Config) *bool, doc ...string) setting {
	return setting{
		key: key, def: def, doc: append(doc, "on or off."),
		set: func(c *Config, v string) error {
			switch strings.ToLower(v) {
			case "on", "true", "yes":
				*at(c) = true
			case "off", "false", "no":
				*at(c) = false
			default:
				return fmt.Errorf("%q is not on or off", v)
			}
			return nil
		},
		show: func(c *Config) string {
			if *at(c) {
				return "on"
			}
			return Off
		},
	}
}

// cronSetting is a schedule of five fields in UTC, or off.
func cronSetting(key, def string, at func(*Config) *string, doc ...string) setting {
	return setting{
		key: key, def: def, doc: doc,
		set: func(c *Config, v string) error {
			if isOff(v) {
				*at(c) = Off
				return nil
			}
			if _, err := cron.ParseStandard(v); err != nil || strings.Contains(v, "TZ=") {
				return fmt.Errorf("%q is not a schedule: write five fields, minute hour day month weekday, for example \"0 2 * * *\", or off", v)
			}
			*at(c) = v
			return nil
		},
		show: func(c *Config) string { return *at(c) },
	}
}

// isOff accepts what YAML makes of an unquoted off, too.
func isOff(v string) bool { return strings.EqualFold(v, Off) || v == "false" }

// everySetting is an interval of at least lo, or off.
func everySetting(key, def string, lo time.Duration, at func(*Config) *time.Duration, doc ...string) setting {
	inner := durationSetting(key, def, lo, 31*24*time.Hour, at, doc...)
	set, show := inner.set, inner.show
	inner.set = func(c *Config, v string) error {
		if isOff(v) {
			*at(c) = 0
			return nil
		}
		return set(c, v)
	}
	inner.show = func(c *Config) string {
		if *at(c) == 0 {
			return Off
		}
		return show(c)
	}
	return inner
}

// shareSetting is a percentage above 0 and at most 100.
func shareSetting(key, def string, at func(*Config) *float64, doc ...string) setting {
	return setting{
		key: key, def: def, doc: append(doc, "Above 0% and at most 100%."),
		set: func(c *Config, v string) error {
			f, err := ParseShare(v)
			if err == nil {
				*at(c) = f
			}
			return err
		},
		show: func(c *Config) string { return fmt.Sprintf("%g%%", *at(c)*100) },
	}
}

// ParseShare reads "2%" as 0.02. The result is in (0,1].
func ParseShare(v string) (float64, error) {
	var f float64
	number, ok := strings.CutSuffix(strings.TrimSpace(v), "%")
	if n, err := fmt.Sscanf(number, "%g", &f); !ok || n != 1 || err != nil || fmt.Sprintf("%g", f) != strings.TrimSpace(number) || !(f > 0 && f <= 100) {
		return 0, fmt.Errorf("%q is not a share: write a percentage above 0%% and at most 100%%, for example 2%%", v)
	}
	return f / 100, nil
}

// BackupSecret returns the secret of the backup repository: nil if none was given. file, when not empty, is stronger than
// backup.key_file, and both than the environment. isKey: it is a key, not a passphrase, and needs no stretching. No error message
// repeats any part of it.
func (c *Config) BackupSecret(file string, environ []string) (secret []byte, isKey bool, err error) {
	where, key := "flag --key-file", ""
	if file == "" {
		file, where, key = c.Backup.KeyFile, c.Origin("backup.key_file").String(), "backup.key_file"
	}
	return ReadSecret(file, where, key, BackupKeyEnv, environ)
}

// ReadSecret reads a passphrase or key from a file or, if that is "", from an environment variable. A file that holds 64 hex digits, the
// base64 of 32 bytes, or 32 bytes that are no text holds a key; anything else is a passphrase, less the line end. A variable
// holds a passphrase.
func ReadSecret(file, where, key, variable string, environ []string) (secret []byte, isKey bool, err error) {
	if file == "" {
		text := environment(environ)[variable]
		if text == "" {
			return nil, false, nil
		}
		return []byte(text), false, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, false, &Error{Where: where, Key: key, Problem: "the key file cannot be read: " + err.Error()}
	}
	if len(raw) == KeyBytes && !isText(raw) {
		return raw, true, nil
	}
	text := strings.TrimRight(string(raw), "\r\n")
	if text == "" {
		return nil, false, &Error{Where: where, Key: key, Problem: file + " is empty"}
	}
	if len(text) != KeyBytes {
		if k, err := decodeKey([]byte(text)); err == nil {
			return k, true, nil
		}
	}
	return []byte(text), false, nil
}

// isText: 32 printable bytes are a passphrase that somebody typed, not a key.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' || c > '~' {
			return false
		}
	}
	return true
}
