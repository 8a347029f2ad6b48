package server

import (
	"bytes"
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

var script = strings.Repeat("console.log('understudy')\n", 100)

// console serves made-up files in front of something that answers everything else.
func console(t *testing.T, files fstest.MapFS) http.Handler {
	p, err := loadPages(files)
	require.NoError(t, err)
	e := gin.New()
	e.Use(p.serve)
	e.GET("/metrics", func(c *gin.Context) { c.String(http.StatusOK, "behind") })
	e.NoRoute(func(c *gin.Context) { c.String(http.StatusNotFound, "behind") })
	return e
}

func get(h http.Handler, path string, headers ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

func TestConsole(t *testing.T) {
	built := console(t, fstest.MapFS{
		"index.html": {Data: []byte("<p>console")}, "unbuilt.html": {Data: []byte("<p>make build")}, ".gitignore": {Data: []byte("*")},
		"assets/index-4f2a.js": {Data: []byte(script)}, "assets/text.woff2": {Data: []byte("font")},
	})
	browser := []string{"Accept", "text/html,*/*"}

	for _, path := range []string{"/", "/index.html", "/hosts", "/groups/web/points?q=a"} {
		r := get(built, path, browser...)
		require.Equal(t, http.StatusOK, r.StatusCode, path)
		require.Equal(t, "<p>console", text(t, r))
		require.Equal(t, "text/html; charset=utf-8", r.Header.Get("Content-Type"))
		require.Equal(t, "no-cache", r.Header.Get("Cache-Control"), "a new version must be seen")
	}
	for path, kind := range map[string]string{"/assets/index-4f2a.js": "text/javascript; charset=utf-8", "/assets/text.woff2": "font/woff2"} {
		r := get(built, path)
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.Equal(t, kind, r.Header.Get("Content-Type"))
		require.Equal(t, "public, max-age=31536000, immutable", r.Header.Get("Cache-Control"))
	}

	for _, path := range []string{"/api/v1/nothing", "/metrics"} {
		require.Equal(t, "behind", text(t, get(built, path, browser...)), path)
	}
	for _, path := range []string{"/nothing", "/assets/gone.js", "/.gitignore", "/../server.go"} {
		require.Equal(t, http.StatusNotFound, get(built, path, "Accept", "*/*").StatusCode, path)
	}
	w := httptest.NewRecorder()
	built.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	require.Equal(t, "behind", w.Body.String())
}

func TestConsoleIsSentOnce(t *testing.T) {
	h := console(t, fstest.MapFS{"index.html": {Data: []byte("<p>console")}, "assets/a.js": {Data: []byte(script)}})
	r := get(h, "/assets/a.js", "Accept-Encoding", "br, gzip")
	require.Equal(t, "gzip", r.Header.Get("Content-Encoding"))
	packed := text(t, r)
	require.Less(t, len(packed), len(script)/5)
	z, err := gzip.NewReader(bytes.NewReader([]byte(packed)))
	require.NoError(t, err)
	plain, err := io.ReadAll(z)
	require.NoError(t, err)
	require.Equal(t, script, string(plain))
	require.Equal(t, script, text(t, get(h, "/assets/a.js")))

	require.Equal(t, http.StatusNotModified, get(h, "/assets/a.js", "If-None-Match", r.Header.Get("ETag")).StatusCode)
	require.Equal(t, http.StatusOK, get(h, "/", "If-None-Match", r.Header.Get("ETag")).StatusCode)
}

func TestConsoleThatWasNotBuilt(t *testing.T) {
	h := console(t, fstest.MapFS{"unbuilt.html": {Data: []byte("<p>make build")}})
	require.Equal(t, "<p>make build", text(t, get(h, "/hosts", "Accept", "text/html")))
}

// The policy must be as strict as the console allows, which the browser tests watch: they fail at every violation.
func TestPolicyOfThePage(t *testing.T) {
	s := New(Parts{Service: &recorder{}}, Options{Log: slog.New(slog.DiscardHandler)})
	r := get(s, "/", "Accept", "text/html")
	require.Equal(t, http.StatusOK, r.StatusCode)
	policy := r.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'self'")
	require.NotContains(t, policy, "unsafe")
}
