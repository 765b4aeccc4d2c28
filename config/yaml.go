package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFileBytes bounds a configuration file; a larger one is certainly not one.
const maxFileBytes = 1 << 20

// file applies the settings of a YAML file.
func (l *loader) file(path string, read func(string) ([]byte, error)) {
	data, err := read(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			l.fail(path, "", "there is no such file; `erlmcp config print-defaults > %s` writes one to start from", path)
			return
		}
		l.fail(path, "", "cannot be read: %s", err)
		return
	}
	if len(data) > maxFileBytes {
		l.fail(path, "", "is %d bytes long: a configuration file has at most %d", len(data), maxFileBytes)
		return
	}
	root, err := parseYAML(data)
	if err != nil {
		l.fail(path+lineOf(err), "", "is not valid YAML: %s", problemOf(err))
		return
	}
	if len(root.Docs) > 1 {
		l.fail(path, "", "has %d YAML documents: one is expected", len(root.Docs))
		return
	}
	if len(root.Docs) == 1 && root.Docs[0].Body != nil {
		y := yamlReader{loader: l, path: path, seen: map[string]int{}}
		y.mapping("", root.Docs[0].Body)
	}
}

// parseYAML keeps a parser that panics on strange input from taking the process with it.
func parseYAML(data []byte) (root *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, fmt.Errorf("a NUL byte at offset %d", i)
	}
	return parser.ParseBytes(data, 0)
}

// lineOf returns ":<line>" of a syntax error, or "".
func lineOf(err error) string {
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil && syntax.GetToken().Position != nil {
		return fmt.Sprintf(":%d", syntax.GetToken().Position.Line)
	}
	return ""
}

// problemOf returns the first line of a syntax error without the source excerpt that the parser adds.
func problemOf(err error) string {
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		return syntax.GetMessage()
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// yamlReader walks the syntax tree, because only the tree knows the lines.
type yamlReader struct {
	*loader
	path string
	seen map[string]int // key -> line
}

func (y *yamlReader) where(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d", y.path, t.Position.Line)
	}
	return y.path
}

// mapping reads the entries of one group of settings.
func (y *yamlReader) mapping(prefix string, n ast.Node) {
	switch m := n.(type) {
	case *ast.MappingNode:
		for _, entry := range m.Values {
			y.entry(prefix, entry)
		}
	case *ast.MappingValueNode:
		y.entry(prefix, m)
	case *ast.NullNode, *ast.CommentGroupNode:
		// A group whose settings are all commented out.
	default:
		what := "the file"
		if prefix != "" {
			what = "a group of settings"
		}
		y.fail(y.where(n), strings.TrimSuffix(prefix, "."), "%s must be a mapping of keys to values, not %s", what, kindOf(n))
	}
}

// entry reads `key: value`.
func (y *yamlReader) entry(prefix string, e *ast.MappingValueNode) {
	keyNode, ok := e.Key.(ast.ScalarNode)
	if !ok {
		y.fail(y.where(e), strings.TrimSuffix(prefix, "."), "has a key that is not a plain word: %s", kindOf(e.Key))
		return
	}
	key := prefix + fmt.Sprint(keyNode.GetValue())
	if line, twice := y.seen[key]; twice && !isSection(key) {
		y.fail(y.where(e.Key), key, "is given twice: first on line %d", line)
		return
	}
	y.seen[key] = e.Key.GetToken().Position.Line
	if isSection(key) {
		y.mapping(key+".", e.Value)
		return
	}
	s, known := lookup(key)
	if !known {
		y.fail(y.where(e.Key), key, "%s", unknownKey(key))
		return
	}
	value, err := y.value(s, e.Value)
	if err != nil {
		y.fail(y.where(e.Key), key, "%s", err)
		return
	}
	y.assign(key, value, Origin{Kind: "file", Name: y.where(e.Key)})
}

// value turns the node of a setting into the text that its row parses.
func (y *yamlReader) value(s *setting, n ast.Node) (string, error) {
	if seq, ok := n.(*ast.SequenceNode); ok {
		if !s.list {
			return "", fmt.Errorf("takes one value, not a list")
		}
		items := make([]string, 0, len(seq.Values))
		for _, item := range seq.Values {
			text, err := scalarText(item)
			if err != nil {
				return "", err
			}
			if strings.Contains(text, ",") {
				return "", fmt.Errorf("%q contains a comma: write two list items", text)
			}
			items = append(items, text)
		}
		return strings.Join(items, ","), nil
	}
	return scalarText(n)
}

// scalarText returns a scalar as it was written, so that 0.0.0.0:80 or 1e3 reach the row unchanged.
func scalarText(n ast.Node) (string, error) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return strings.TrimSuffix(v.Value.Value, "\n"), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return v.GetToken().Value, nil
	case *ast.NullNode:
		return "", fmt.Errorf("has no value; write \"\" for an empty one")
	}
	return "", fmt.Errorf("takes one value, not %s", kindOf(n))
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias (not supported)"
	case *ast.TagNode:
		return "a tag (not supported)"
	case nil:
		return "nothing"
	}
	return strings.ToLower(n.Type().String())
}
