package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"image"
	"image/color"
	"image/png"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/erlmcp/erlmcp/mcp"
)

// Tools that answer with content and need nothing of the client.

// call is a handler of a fixture that takes no arguments, or any.
type call func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error)

// addTool registers a fixture that ignores its arguments.
func addTool(rt *mcp.Runtime, name, description string, fn call) {
	mcp.AddTool(rt, &sdk.Tool{Name: name, Description: description},
		func(ctx context.Context, req *sdk.CallToolRequest, _ map[string]any) (*sdk.CallToolResult, any, error) {
			res, err := fn(ctx, req)
			return res, nil, err
		})
}

func content(parts ...sdk.Content) *sdk.CallToolResult { return &sdk.CallToolResult{Content: parts} }

func text(s string) *sdk.CallToolResult { return content(&sdk.TextContent{Text: s}) }

func addContentTools(rt *mcp.Runtime) {
	fixed := func(name, description string, res *sdk.CallToolResult) {
		addTool(rt, name, description, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return res, nil
		})
	}
	picture := &sdk.ImageContent{Data: pixelPNG(), MIMEType: "image/png"}
	fixed("test_simple_text", "Answers with one text",
		text("This is a simple text response for testing."))
	fixed("test_image_content", "Answers with an image", content(picture))
	fixed("test_audio_content", "Answers with a sound",
		content(&sdk.AudioContent{Data: silenceWAV(), MIMEType: "audio/wav"}))
	fixed("test_embedded_resource", "Answers with an embedded resource",
		content(embedded("test://embedded-resource")))
	fixed("test_multiple_content_types", "Answers with text, image and resource", content(
		&sdk.TextContent{Text: "Multiple content types test:"}, picture, embedded("test://mixed-content-resource")))
	failed := text("This tool intentionally returns an error for testing")
	failed.IsError = true
	fixed("test_error_handling", "Always fails", failed)
	addSchemaTool(rt)
}

func embedded(uri string) *sdk.EmbeddedResource {
	return &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{
		URI: uri, MIMEType: "text/plain", Text: "This is an embedded resource content.",
	}}
}

// addSchemaTool offers a schema whose every keyword must reach the client as it
// is written here (SEP-1613, SEP-2106).
func addSchemaTool(rt *mcp.Runtime) {
	schema := json.RawMessage(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"type": "object",
		"$defs": {"address": {
			"$anchor": "addressDef", "type": "object",
			"properties": {"street": {"type": "string"}, "city": {"type": "string"}}
		}},
		"properties": {
			"name": {"type": "string"},
			"address": {"$ref": "#/$defs/address"},
			"contactMethod": {"type": "string", "enum": ["phone", "email"]},
			"phone": {"type": "string"},
			"email": {"type": "string"}
		},
		"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
		"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
		"then": {"required": ["phone"]},
		"else": {"required": ["email"]},
		"additionalProperties": false
	}`)
	sdk.AddTool(rt.Server(), &sdk.Tool{
		Name: "json_schema_2020_12_tool", Description: "Has an input schema with the vocabulary of JSON Schema 2020-12", InputSchema: schema,
	}, func(_ context.Context, _ *sdk.CallToolRequest, in map[string]any) (*sdk.CallToolResult, any, error) {
		echo, err := json.Marshal(in)
		return text("called with " + string(echo)), nil, err
	})
}

// pixelPNG returns an image of one red pixel.
func pixelPNG() []byte {
	img := image.NewRGBA(image.Rect(0, 0, 1, 1))
	img.Set(0, 0, color.RGBA{R: 255, A: 255})
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		panic(err) // a buffer takes everything
	}
	return buf.Bytes()
}

// silenceWAV returns a sound of eight samples, 8 kHz, one channel, 16 bits.
func silenceWAV() []byte {
	const rate, width, samples = 8000, 2, 8
	out := []byte("RIFF")
	out = binary.LittleEndian.AppendUint32(out, 36+samples*width)
	out = append(out, "WAVEfmt "...)
	out = binary.LittleEndian.AppendUint32(out, 16) // bytes of the format chunk
	out = binary.LittleEndian.AppendUint16(out, 1)  // PCM
	out = binary.LittleEndian.AppendUint16(out, 1)  // channels
	out = binary.LittleEndian.AppendUint32(out, rate)
	out = binary.LittleEndian.AppendUint32(out, rate*width)
	out = binary.LittleEndian.AppendUint16(out, width)
	out = binary.LittleEndian.AppendUint16(out, width*8)
	out = append(out, "data"...)
	out = binary.LittleEndian.AppendUint32(out, samples*width)
	return append(out, make([]byte, samples*width)...)
}
