package api_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

const planted = "correct-horse-battery"

// Whatever anybody does with a secret short of Reveal, its text does not come out.
func TestSecretDoesNotShow(t *testing.T) {
	s := api.NewSecret(planted)
	type hidden struct{ password api.Secret }
	type shown struct{ Password api.Secret }
	values := []any{s, &s, shown{s}, &shown{s}, hidden{s}, &hidden{s}, []api.Secret{s}, map[string]api.Secret{"a": s},
		shown{s.InClear()}, s.InClear(), any(s), errors.Join(fmt.Errorf("refused %v", s))}
	var out strings.Builder
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%p", "%U", "%8.3s", "%-10v"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
	}
	var logs bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		slog.New(h).With("bound", s).Info("login", "password", s, "clear", s.InClear(), slog.Group("g", "p", s), "in", shown{s}, "at", &s)
	}
	encoded, err := json.Marshal([]any{s, &s, shown{s}, hidden{s}, map[string]any{"p": s}})
	require.NoError(t, err)
	inXML, err := xml.Marshal(shown{s})
	require.NoError(t, err)
	for _, text := range []string{out.String(), logs.String(), string(encoded), string(inXML)} {
		require.Contains(t, text, api.Redacted)
		require.NotContains(t, text, planted)
		require.NotContains(t, strings.ToLower(text), fmt.Sprintf("%x", planted))
	}
	require.Equal(t, planted, s.Reveal())
}

func TestSecretTravels(t *testing.T) {
	type login struct {
		Password api.Secret `json:"password,omitzero"`
	}
	var got login
	require.NoError(t, json.Unmarshal([]byte(`{"password":"`+planted+`"}`), &got))
	require.Equal(t, planted, got.Password.Reveal())
	require.Equal(t, login{api.NewSecret(planted)}, got)
	require.True(t, got.Password.Equal(api.NewSecret(planted)))
	require.False(t, got.Password.Equal(api.NewSecret(planted+"s")))

	clear, err := json.Marshal(login{got.Password.InClear()})
	require.NoError(t, err)
	require.JSONEq(t, `{"password":"`+planted+`"}`, string(clear))

	// An answer that comes back after an edit does not make the redacted text the new password.
	answer, err := json.Marshal(got)
	require.NoError(t, err)
	var back login
	require.NoError(t, json.Unmarshal(answer, &back))
	require.True(t, back.Password.IsZero())

	none, err := json.Marshal(login{api.NewSecret("")})
	require.NoError(t, err)
	require.JSONEq(t, `{}`, string(none))
	require.Error(t, json.Unmarshal([]byte(`{"password":5}`), &got))
	require.Error(t, json.Unmarshal([]byte(`{"password":"`+strings.Repeat("x", api.MaxSecret+1)+`"}`), &got))
}
