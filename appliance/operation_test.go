package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever adds a bucket to the state decides whether a backup has it.
func TestEveryBucketIsBackedUpOrNot(t *testing.T) {
	own := map[string]bool{"meta": true, "events": true} // of the store itself
	name := regexp.MustCompile(`^[bB]ucket([A-Z]\w*)?$|^\w+Bucket$`)
	found := 0
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, ident := range spec.Names {
				if !name.MatchString(ident.Name) || i >= len(spec.Values) {
					continue
				}
				if literal, ok := spec.Values[i].(*ast.BasicLit); ok && literal.Kind == token.STRING {
					bucket, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					require.True(t, own[bucket] || configuration.Knows(bucket), "%s: what becomes of the bucket %q in a backup and a restore? See operation.go", path, bucket)
					found++
				}
			}
			return true
		})
		return nil
	}))
	require.Greater(t, found, 10)
}
