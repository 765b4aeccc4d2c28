package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLocationsAreReadAsPeopleWriteThem(t *testing.T) {
	env := map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "canary"}
	look := func(name string) string { return env[name] }
	l, err := ParseLocation("/var/backups/x", look)
	require.NoError(t, err)
	require.Equal(t, "/var/backups/x", l.Dir)
	l, err = ParseLocation("file:///a/b/../c", look)
	require.NoError(t, err)
	require.Equal(t, "/a/c", l.String())

	l, err = ParseLocation("s3://bucket/site/a/?endpoint=http://127.0.0.1:9000&region=eu-1", look)
	require.NoError(t, err)
	require.Equal(t, S3Options{Endpoint: "127.0.0.1:9000", Insecure: true, Region: "eu-1", Bucket: "bucket", Prefix: "site/a", AccessKey: "id", SecretKey: "canary"}, *l.S3)
	require.NotContains(t, l.String(), "canary")
	again, err := ParseLocation(l.String(), look)
	require.NoError(t, err)
	require.Equal(t, l, again)
	l, err = ParseLocation("s3://bucket?endpoint=http://h&part_size=16MiB", look)
	require.NoError(t, err)
	require.Equal(t, int64(16<<20), l.S3.PartSize)
	again, err = ParseLocation(l.String(), look)
	require.NoError(t, err)
	require.Equal(t, l, again)
	env["AWS_REGION"] = "ap-9"
	l, err = ParseLocation("s3://bucket", look)
	require.NoError(t, err)
	require.Equal(t, "s3.ap-9.amazonaws.com", l.S3.Endpoint)
	require.False(t, l.S3.Insecure)

	for _, bad := range []string{
		"", "ftp://x", "s3://", "s3:///x", "s3://id:canary@bucket", "s3://b?endpint=x", "s3://b?endpoint=http://h/path", "s3://b?endpoint=https://", "file://host/x", "s3://%zz",
		"s3://b?part_size=4MiB", "s3://b?part_size=129MiB", "s3://b?part_size=x", "s3://b?part_size=17592186044424MiB",
	} {
		_, err := ParseLocation(bad, look)
		require.ErrorIs(t, err, ErrInvalid, bad)
		require.NotContains(t, err.Error(), "canary")
	}
	delete(env, "AWS_SECRET_ACCESS_KEY")
	_, err = ParseLocation("s3://bucket", look)
	require.ErrorContains(t, err, "only one is set")
	delete(env, "AWS_ACCESS_KEY_ID")
	file := filepath.Join(t.TempDir(), "credentials")
	require.NoError(t, os.WriteFile(file, []byte("[default]\naws_access_key_id = a\naws_secret_access_key = b\n"), 0o600))
	env["AWS_SHARED_CREDENTIALS_FILE"] = file
	l, err = ParseLocation("s3://bucket", look)
	require.NoError(t, err)
	require.Equal(t, "a b", l.S3.AccessKey+" "+l.S3.SecretKey)
	env["AWS_SHARED_CREDENTIALS_FILE"] = file + "-not"
	_, err = ParseLocation("s3://bucket", look)
	require.ErrorIs(t, err, ErrInvalid)
}
