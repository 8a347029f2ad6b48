package server

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRedacted puts a secret into bodies, and bodies into each other. Whatever the rest is, the secret does not come out.
func FuzzRedacted(f *testing.F) {
	s := New(allParts(&recorder{}, newPeople(f)), Options{Token: token, Log: slog.New(slog.DiscardHandler)})
	f.Cleanup(s.endStreams)
	f.Add(`{"password":"%"}`)
	f.Add(`{"Password":"%","%":1}`)
	f.Add(`[{"password":"%"},{"token":"%"}]`)
	f.Add(`{"password":{"a":["%"]},"pass word":"%"}`)
	f.Add(`["%",{"secret":"%"}]`)
	f.Add(`"%`)
	const planted = "planted-secret"
	// What stands in these is kept, also when their names are written with escapes.
	kept := []string{"name", "fullName", "role", "groups", `\`}
	route := s.needs["POST /api/v1/users"]
	f.Fuzz(func(t *testing.T, form string) {
		out := redacted(s.bodySchema(route), s.api.OpenAPI().Components.Schemas, []byte(strings.ReplaceAll(form, "%", planted)))
		require.True(t, out == nil || json.Valid(out))
		if !slices.ContainsFunc(kept, func(name string) bool { return strings.Contains(form, name) }) {
			require.NotContains(t, string(out), planted)
		}
	})
}
