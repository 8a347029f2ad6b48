// Package ui holds what browsers get: a page that says what this is and where the API is. It is embedded in the program
// and asks nobody else for anything.
package ui

import "embed"

// Files are served at the root of the appliance's address.
//
//go:embed index.html style.css
var Files embed.FS
