package main

// Schemas that users are asked with.

// object returns the schema of an object with required strings.
func object(names ...string) map[string]any {
	properties := map[string]any{}
	for _, name := range names {
		properties[name] = map[string]any{"type": "string", "description": "The user's " + name}
	}
	return map[string]any{"type": "object", "properties": properties, "required": names}
}

// defaultsSchema has a default for each primitive type (SEP-1034).
func defaultsSchema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{
		"name":     map[string]any{"type": "string", "description": "Full name", "default": "John Doe"},
		"age":      map[string]any{"type": "integer", "description": "Age in years", "default": 30},
		"score":    map[string]any{"type": "number", "description": "Points", "default": 95.5},
		"status":   map[string]any{"type": "string", "description": "State", "enum": []string{"active", "inactive", "pending"}, "default": "active"},
		"verified": map[string]any{"type": "boolean", "description": "Whether it was checked", "default": true},
	}}
}

// enumsSchema has the five ways to offer a choice (SEP-1330).
func enumsSchema() map[string]any {
	titled := []map[string]any{
		{"const": "value1", "title": "First Option"},
		{"const": "value2", "title": "Second Option"},
		{"const": "value3", "title": "Third Option"},
	}
	plain := []string{"option1", "option2", "option3"}
	return map[string]any{"type": "object", "properties": map[string]any{
		"untitledSingle": map[string]any{"type": "string", "enum": plain},
		"titledSingle":   map[string]any{"type": "string", "oneOf": titled},
		"legacyEnum": map[string]any{
			"type": "string", "enum": []string{"opt1", "opt2", "opt3"},
			"enumNames": []string{"Option One", "Option Two", "Option Three"},
		},
		"untitledMulti": map[string]any{
			"type": "array", "minItems": 1, "maxItems": 3, "items": map[string]any{"type": "string", "enum": plain},
		},
		"titledMulti": map[string]any{"type": "array", "minItems": 1, "maxItems": 3, "items": map[string]any{"anyOf": titled}},
	}}
}
