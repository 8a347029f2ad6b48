package server

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzBody sends bodies, ids, queries and headers to every route. Nothing may be taken for a failure of the appliance,
// and what is refused is a problem that says why.
func FuzzBody(f *testing.F) {
	r := &recorder{}
	s := New(allParts(r, newPeople(f)), Options{Token: token, Log: slog.New(slog.DiscardHandler)})
	f.Cleanup(s.endStreams)
	var routes []string
	for _, r := range s.engine.Routes() {
		if strings.HasPrefix(r.Path, prefix) && !strings.HasSuffix(r.Path, "/events") { // that one never ends
			routes = append(routes, r.Method+" "+r.Path)
		}
	}
	slices.Sort(routes) // gin gives them in the order of a map
	for i, r := range routes {
		f.Add(uint8(i), "shop", "", `"7"`, "{}")
		if strings.HasPrefix(r, "POST") || strings.HasPrefix(r, "PUT") {
			for _, body := range []string{"", "null", `[]`, `{"name":"a","uri":"fake:"}`, `{"planned":true,"point":"x"}`, "\x00", `{"name":1e999}`,
				`{"rpoSeconds":30,"retention":[{"count":3}]}`, `{"rpoSeconds":30,"x":` + strings.Repeat("[", 500),
				`{"name":"shop","sourceHost":"a","targetHost":"b","machines":[{"vm":"web"}],"policy":{"rpoSeconds":30}}`} {
				f.Add(uint8(i), "shop", "", `W/"7"`, body)
			}
		}
	}
	f.Add(uint8(0), "../..", "limit=-1&group=%00", "*", "")
	f.Fuzz(func(t *testing.T, route uint8, id, query, ifMatch, body string) {
		method, path, _ := strings.Cut(routes[int(route)%len(routes)], " ")
		for _, name := range []string{":id", ":point"} {
			path = strings.ReplaceAll(path, name, url.PathEscape(id))
		}
		r, err := http.NewRequestWithContext(t.Context(), method, "http://appliance"+path, strings.NewReader(body))
		if err != nil {
			return // no client could send it
		}
		r.URL.RawQuery = query
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		r.Header["If-Match"] = []string{ifMatch}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		require.Less(t, w.Code, 500, "%s", w.Body)
		if method == http.MethodGet && w.Code < 300 && strings.HasPrefix(path, prefix+"/audit") {
			return // what it gives grows with what other inputs tried
		}
		require.Less(t, w.Body.Len(), 64<<10+8*len(body)+8*len(id)+8*len(query), "an answer out of proportion")
		switch {
		case w.Code >= 400:
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), "%d %s", w.Code, w.Body)
			var p Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
			require.Equal(t, w.Code, p.Status)
			require.NotEmpty(t, p.Detail, "%s", w.Body)
		case strings.HasSuffix(w.Header().Get("Content-Type"), "json") && w.Code < 300:
			require.True(t, json.Valid(w.Body.Bytes()), "%s", w.Body)
		}
	})
}
