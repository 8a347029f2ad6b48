// Package ui holds the web console that browsers get: what Vite has built from src, embedded in the program. It asks
// nobody but the appliance for anything.
package ui

import (
	"embed"
	"io/fs"
)

// Until `make ui` has run there is only unbuilt.html, so that a fresh clone compiles.
//
//go:embed all:dist
var dist embed.FS

// Files are served at the root of the appliance's address.
func Files() fs.FS {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a good one
	}
	return files
}
