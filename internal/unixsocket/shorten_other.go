//go:build !linux

package unixsocket

func shorten(path string) (short string, release func(), err error) {
	short, err = relative(path)
	return short, func() {}, err
}
