package main

import (
	"context"
	"encoding/json"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

func addResources(rt *mcp.Runtime) {
	fixed := func(name, uri, mime, description string, body sdk.ResourceContents) {
		body.URI, body.MIMEType = uri, mime
		rt.Server().AddResource(&sdk.Resource{Name: name, URI: uri, MIMEType: mime, Description: description},
			func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
				return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{&body}}, nil
			})
	}
	fixed("static-text", "test://static-text", "text/plain", "A text that never changes",
		sdk.ResourceContents{Text: "This is the content of the static text resource."})
	fixed("static-binary", "test://static-binary", "image/png", "An image that never changes",
		sdk.ResourceContents{Blob: pixelPNG()})

	const before, after = "test://template/", "/data"
	rt.Server().AddResourceTemplate(&sdk.ResourceTemplate{
		Name: "template", URITemplate: before + "{id}" + after, MIMEType: "application/json", Description: "A document for every id",
	}, func(_ context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		id := strings.TrimSuffix(strings.TrimPrefix(req.Params.URI, before), after)
		body, err := json.Marshal(map[string]any{"id": id, "templateTest": true, "data": "Data for ID: " + id})
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{
			URI: req.Params.URI, MIMEType: "application/json", Text: string(body),
		}}}, err
	})
}
