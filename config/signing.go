package config

import (
	"fmt"
	"os"

	"github.com/erlmcp/erlmcp/backupfmt/sign"
)

// SignPasswordEnv is the environment variable with the password of the private key that signs backups.
const SignPasswordEnv = "ERLMCP_BACKUP_SIGN_PASSWORD" //nolint:gosec // a name, not a password

// BackupSigner reads the private key that signs what is written to the backup repository: nil if there is none. file, when not empty, is stronger
// than backup.sign_key_file. No error message repeats any part of it.
func (c *Config) BackupSigner(file string, environ []string) (*sign.PrivateKey, error) {
	where, key := "flag --sign-key-file", ""
	if file == "" {
		file, where, key = c.Backup.SignKeyFile, c.Origin("backup.sign_key_file").String(), "backup.sign_key_file"
	}
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, &Error{Where: where, Key: key, Problem: "the signing key cannot be read: " + err.Error()}
	}
	p, err := sign.Parse(raw, []byte(environment(environ)[SignPasswordEnv]))
	if err != nil {
		return nil, &Error{Where: where, Key: key, Problem: fmt.Sprintf("%s: %v (its password is given in %s)", file, err, SignPasswordEnv)}
	}
	return p, nil
}

// BackupTrust reads the public keys whose signatures on a backup repository count: none if signatures are not asked for. files, when not empty, are
// stronger than backup.verify_key_file; "off" asks for none. Without either, whoever is configured to sign trusts that key.
func (c *Config) BackupTrust(files []string) (trust sign.Trust, err error) {
	where, key := "flag --verify-key-file", ""
	if len(files) == 0 && c.Backup.VerifyKeyFile != "" {
		files, where, key = []string{c.Backup.VerifyKeyFile}, c.Origin("backup.verify_key_file").String(), "backup.verify_key_file"
	}
	if len(files) == 0 && c.Backup.SignKeyFile != "" {
		raw, err := os.ReadFile(c.Backup.SignKeyFile)
		var public sign.PublicKey
		if err == nil {
			public, err = sign.PublicOf(raw)
		}
		if err != nil {
			return nil, &Error{Where: c.Origin("backup.sign_key_file").String(), Key: "backup.sign_key_file", Problem: "the signing key cannot be read: " + err.Error()}
		}
		return sign.Trust{public}, nil
	}
	for _, file := range files {
		if isOff(file) {
			if len(files) > 1 {
				return nil, &Error{Where: where, Key: key, Problem: "off and the name of a file contradict each other"}
			}
			return nil, nil
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, &Error{Where: where, Key: key, Problem: "the file of public keys cannot be read: " + err.Error()}
		}
		more, err := sign.ParseTrust(raw)
		if err != nil {
			return nil, &Error{Where: where, Key: key, Problem: file + ": " + err.Error()}
		}
		trust = append(trust, more...)
	}
	return trust, nil
}
