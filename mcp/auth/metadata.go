package auth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// WellKnown is the path of the protected resource metadata (RFC 9728). The path
// of the resource is appended to it; the bare path answers too.
const WellKnown = "/.well-known/oauth-protected-resource"

// metadataURL inserts the well-known path between host and path of a resource
// (RFC 9728, section 3.1).
func metadataURL(resource string) string {
	u, err := url.Parse(resource)
	if err != nil {
		return "" // NewVerifier checked it
	}
	u.Path, u.RawPath = WellKnown+strings.TrimSuffix(u.Path, "/"), ""
	return u.String()
}

// metadata is the document of RFC 9728, section 2.
type metadata struct {
	Resource string   `json:"resource"`
	Servers  []string `json:"authorization_servers"`
	Scopes   []string `json:"scopes_supported,omitempty"`
	Methods  []string `json:"bearer_methods_supported"`
	Name     string   `json:"resource_name"`
}

// Metadata serves the protected resource metadata to everybody: clients read
// them before they have a token. Mount it on [WellKnown] and WellKnown + "/".
func (v *Verifier) Metadata() http.Handler {
	doc, err := json.Marshal(metadata{
		Resource: v.o.Resource, Servers: []string{v.o.Issuer}, Scopes: v.o.Scopes, Methods: []string{"header"}, Name: "erlmcp",
	})
	if err != nil {
		panic("auth: strings that are not JSON: " + err.Error()) // unreachable
	}
	own := ""
	if u, err := url.Parse(v.metadataURL); err == nil {
		own = u.Path
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*") // public, and read by clients in browsers
		if path := strings.TrimSuffix(req.URL.Path, "/"); path != WellKnown && path != own {
			http.NotFound(w, req)
			return
		}
		switch req.Method {
		case http.MethodGet, http.MethodHead:
		case http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", "GET")
			h.Set("Access-Control-Allow-Headers", "Mcp-Protocol-Version")
			w.WriteHeader(http.StatusNoContent)
			return
		default:
			h.Set("Allow", "GET, HEAD, OPTIONS")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "max-age=300")
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(doc)
	})
}
