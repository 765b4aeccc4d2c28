package failover

import (
	"errors"
	"fmt"
	"net/http"
)

// HistoryHeader is on the answers of members of a cluster: the id of the history that they share.
const HistoryHeader = "Erlmcp-History"

// ErrOtherHistory: a server answered that is no member of the cluster of before: one that began anew because its directory was
// lost, or what an operator made of the ruins. Its answer was thrown away and the next member asked. When all that answer
// agree on another history, the request that finds out fails and the ones after it go on with that.
var ErrOtherHistory = errors.New("failover: the server does not have the history of the cluster that answered before")

// otherHistory is an ErrOtherHistory.
type otherHistory struct{ got, want string }

func (e *otherHistory) Error() string {
	if e.got == "" {
		return fmt.Sprintf("%v, %s: it is a single node (its data directory was lost?)", ErrOtherHistory, e.want)
	}
	return fmt.Sprintf("%v: %s instead of %s", ErrOtherHistory, e.got, e.want)
}

func (e *otherHistory) Unwrap() error { return ErrOtherHistory }

// recognize throws away what a server says that is no member. Proxies and servers that are not ready do not know the history:
// their refusals count as what they are.
func (t *Transport) recognize(resp *http.Response) error {
	got := resp.Header.Get(HistoryHeader)
	switch {
	case got != "" && t.history.CompareAndSwap(nil, &got):
		return nil
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusTooManyRequests:
		return nil
	}
	if want := t.history.Load(); want != nil && *want != got {
		return &otherHistory{got, *want}
	}
	return nil
}

// accept goes on with another history when nobody has the one of before any more.
func (t *Transport) accept(cause error) {
	var other *otherHistory
	if want := t.history.Load(); errors.As(cause, &other) && other.got != "" && want != nil && *want == other.want {
		t.history.CompareAndSwap(want, &other.got)
	}
}
