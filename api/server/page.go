package server

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// pages serves the console: its files, and its index at every address that only the console knows.
type pages struct {
	files map[string]*asset // by path in the address
	index *asset
}

// asset is one file. Names below /assets/ hold a hash of the content, so they never change.
type asset struct {
	content []byte
	packed  func() []byte // in gzip; nil when that gains nothing
	kind    string
	etag    string
	forever bool
}

// kinds are written out, for the tables of the system differ, and browsers are told not to guess.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml", ".woff2": "font/woff2",
}

// loadPages reads all files; a console that was not built yet has a page that says so.
func loadPages(files fs.FS) (*pages, error) {
	p := &pages{files: map[string]*asset{}}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			return err
		}
		content, err := fs.ReadFile(files, name)
		p.files["/"+name] = newAsset(name, content)
		return err
	})
	p.index = cmp.Or(p.files["/index.html"], p.files["/unbuilt.html"])
	p.files["/"] = p.index
	return p, err
}

func newAsset(name string, content []byte) *asset {
	sum := sha256.Sum256(content)
	return &asset{
		content: content, kind: cmp.Or(kinds[path.Ext(name)], "application/octet-stream"), forever: strings.HasPrefix(name, "assets/"),
		etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
		packed: sync.OnceValue(func() []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, _ = w.Write(content) // memory takes everything
			_ = w.Close()
			if b.Len() > len(content)*9/10 {
				return nil
			}
			return b.Bytes()
		}),
	}
}

// serve answers what is the console's, and passes everything else on.
func (p *pages) serve(c *gin.Context) {
	r := c.Request
	if r.Method != http.MethodGet && r.Method != http.MethodHead || strings.HasPrefix(r.URL.Path, "/api/") {
		return
	}
	a := p.files[r.URL.Path]
	// Somebody who opens an address with a browser means a page of the console; programs ask for other kinds.
	if a == nil && c.FullPath() == "" && strings.Contains(c.GetHeader("Accept"), "text/html") {
		a = p.index
	}
	if a == nil {
		return
	}
	c.Abort()
	a.write(c.Writer, r)
}

func (a *asset) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept-Encoding, Accept")
	h.Set("Cache-Control", "no-cache") // ask again, and be told that it is still the same
	if a.forever {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	body := io.ReadSeeker(bytes.NewReader(a.content))
	if packed := a.packed(); packed != nil && r.Header.Get("Range") == "" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = bytes.NewReader(packed)
	}
	http.ServeContent(w, r, "", time.Time{}, body)
}
