package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"understudy/api"
)

const (
	maxText = 1024  // characters of one value in the audit log
	maxKept = 64000 // bytes of all
)

// secretName matches fields that are secrets whatever the document says of them.
var secretName = regexp.MustCompile(`(?i)(password|passphrase|secret|token|community|cookie|csrf|credential|privatekey|^key$)`)

// redacted gives a body in JSON without its secrets: what the document marks as such, what is named like one, and fields
// that the document does not know, for they may be a secret under a misspelled name. Without a schema, all are known. What
// is no JSON is left out.
func redacted(schema *huma.Schema, all huma.Registry, body []byte) json.RawMessage {
	var v any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return nil
	}
	kept, err := json.Marshal(redact(schema, all, v))
	if err != nil || len(kept) > maxKept {
		return json.RawMessage(fmt.Sprintf(`"[%d bytes]"`, len(body)))
	}
	return kept
}

func redact(schema *huma.Schema, all huma.Registry, v any) any {
	if schema != nil && schema.Ref != "" {
		schema = all.SchemaFromRef(schema.Ref)
	}
	if schema != nil && !shaped(schema, v) {
		return "[not what was expected]"
	}
	switch v := v.(type) {
	case map[string]any:
		unknown := 0
		for name, value := range v {
			field, known := fieldOf(schema, name)
			if !known { // with its name: somebody may have typed anything there
				delete(v, name)
				unknown++
				continue
			}
			v[name] = redactField(field, all, name, value)
		}
		if unknown > 0 {
			v["[unknown fields]"] = unknown
		}
	case []any:
		var items *huma.Schema
		if schema != nil {
			items = schema.Items
		}
		for i := range v {
			v[i] = redact(items, all, v[i])
		}
	case string:
		if n := utf8.RuneCountInString(v); n > maxText {
			return fmt.Sprintf("[%d characters]", n)
		}
	}
	return v
}

// shaped tells whether v has the shape of the schema, so that all fields in it are known.
func shaped(schema *huma.Schema, v any) bool {
	switch v.(type) {
	case map[string]any:
		return schema.Type == huma.TypeObject || schema.Type == ""
	case []any:
		return schema.Type == huma.TypeArray || schema.Type == ""
	case string:
		return schema.Type == huma.TypeString || schema.Type == ""
	}
	return true
}

// fieldOf gives the schema of a field; nil where all fields are known.
func fieldOf(schema *huma.Schema, name string) (field *huma.Schema, known bool) {
	if schema == nil || schema.Properties == nil && schema.AdditionalProperties == nil {
		return nil, true
	}
	if field = schema.Properties[name]; field == nil {
		field, _ = schema.AdditionalProperties.(*huma.Schema) // a map
	}
	return field, field != nil
}

func redactField(field *huma.Schema, all huma.Registry, name string, value any) any {
	_, text := value.(string)
	switch {
	case field != nil && (field.WriteOnly || field.Format == "password"), text && secretName.MatchString(name):
		if value == "" {
			return ""
		}
		return api.Redacted
	}
	return redact(field, all, value)
}

// bodySchema gives the schema of a route's body; nil: it has none.
func (s *Server) bodySchema(route guarded) *huma.Schema {
	item := s.api.OpenAPI().Paths[route.path]
	if item == nil {
		return nil
	}
	for _, op := range []*huma.Operation{item.Post, item.Put, item.Delete, item.Patch} {
		if op != nil && op.OperationID == route.action && op.RequestBody != nil {
			if media := op.RequestBody.Content["application/json"]; media != nil {
				return media.Schema
			}
		}
	}
	return nil
}
