package directory

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"
)

// Whatever somebody types as a name is a value in the filter, that very text, and no grammar.
func FuzzFilter(f *testing.F) {
	for _, name := range []string{"carl", "*", "a)(uid=*", `\2a`, "\x00", "{dn}", "{name}", "Ä\xff", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, err := ldap.CompileFilter(filled("(&(objectClass=person)(uid={name}))", name, ""))
		require.NoError(t, err)
		require.Len(t, p.Children, 2)
		require.EqualValues(t, ldap.FilterEqualityMatch, p.Children[1].Tag)
		require.Equal(t, "uid", p.Children[1].Children[0].Data.String())
		require.Equal(t, name, p.Children[1].Children[1].Data.String())
	})
}

// Whatever a provider says, only texts become groups.
func FuzzClaims(f *testing.F) {
	for _, text := range []string{`{"groups":["a","b"]}`, `{"groups":"a"}`, `{"realm":{"groups":[1,null,"c"]}}`, `{"a.b":"c","a":{"b":"d"}}`, `null`, `[]`, `{"groups":{"a":1}}`} {
		f.Add([]byte(text), "groups")
		f.Add([]byte(text), "realm.groups")
	}
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		var c claims
		if json.Unmarshal(text, &c) != nil {
			return
		}
		require.NotNil(t, c)
		for _, group := range c.texts(name) {
			encoded, err := json.Marshal(group)
			require.NoError(t, err)
			all, err := json.Marshal(map[string]any(c))
			require.NoError(t, err)
			require.True(t, strings.Contains(string(all), string(encoded)))
		}
		if name, err := c.name(""); err == nil {
			require.NotEmpty(t, name)
		}
	})
}
