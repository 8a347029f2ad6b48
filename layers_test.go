// Package understudy_test proves the house plan: who may import whom. See CONTRIBUTING.md.
package understudy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "understudy/"

// floors of the house, by room. A package belongs to the room with the longest prefix of its path. Imports go down only.
var floors = map[string]int{
	"appliance": 6, "guestagent": 6, "images": 6,
	"appliance/replication": 5, "appliance/cli": 5, "appliance/store": 5, "appliance/support": 5, "appliance/metrics": 5,
	"appliance/notify": 5, "appliance/directory": 5,
	"appliance/protection": 4, "appliance/jobs": 4, "appliance/scripts": 4, "appliance/vault": 4,
	"appliance/access": 4,
	"api":              3, "api/server": 3, "api/client": 3,
	"provisioning": 2, "hypervisors/hypervisortest": 2, "hypervisors/kvm": 2, "hypervisors/fake": 2, "hypervisors/esx": 2, "hypervisors/hyperv": 2,
	"hypervisors": 1,
	"snapshot":    0, "ui": 0,
}

// owners of libraries: only they may import them, tests included. A star allows everything below as well.
var owners = map[string][]string{
	"github.com/masahiro331/":         {"provisioning/linux"},
	"github.com/cavaliergopher/":      {"provisioning/linux"},
	"libvirt.org/":                    {"hypervisors/kvm/*"},
	"github.com/vmware/":              {"hypervisors/esx/*"},
	"github.com/microsoft/":           {"hypervisors/hyperv/*"},
	"go.etcd.io/":                     {"appliance/store"},
	"github.com/gin-gonic/":           {"api/server"},
	"github.com/danielgtaylor/huma/":  {"api/server"},
	"github.com/spf13/":               {"appliance", "appliance/cli"},
	"github.com/prometheus/":          {"appliance/metrics"},
	"github.com/vbauerster/mpb/":      {"appliance/cli"},
	"github.com/wneessen/":            {"appliance/notify"},
	"github.com/gosnmp/":              {"appliance/notify"},
	"github.com/go-ldap/":             {"appliance/directory"},
	"github.com/coreos/go-oidc/":      {"appliance/directory"},
	"golang.org/x/oauth2":             {"appliance/directory"},
	"github.com/zitadel/":             {"appliance/directory"},
	module + "hypervisors/esx/lab":    {"hypervisors/esx/*", "appliance/demo", "appliance/bench"},
	module + "hypervisors/kvm/lab":    {"hypervisors/kvm/*", "appliance/demo", "appliance/bench", "appliance/rig", "appliance/soak"},
	module + "hypervisors/kvm/lab/":   {"hypervisors/kvm/*", "appliance/demo", "appliance/bench", "appliance/rig", "appliance/soak"},
	module + "appliance/replication":  {"appliance", "appliance/replication", "appliance/bench"},
	module + "appliance/replication/": {"appliance", "appliance/replication/*"},
}

// measures is the program that may name drivers besides, to measure them alone.
const measures = "appliance/bench"

// knows narrows what a package may see of the house further than its floor does.
var knows = map[string][]string{
	"appliance/cli": {"api", "api/client"},
}

// pkg is a package as go list sees it; paths are relative to the module, libraries are whole.
type pkg struct {
	path  string
	files []file
	tests []string // imports of its tests
}

type file struct {
	name    string
	imports []string
}

func TestHousePlan(t *testing.T) {
	house := load(t)
	require.Greater(t, len(house), 10, "go list does not see the house")
	require.Empty(t, violations(house))
}

// violations gives a line for each import that the plan forbids.
func violations(house []pkg) []string {
	var found []string
	drivers := map[string]bool{} // files that name one
	for _, p := range house {
		if roomOf(p.path) == "" {
			found = append(found, p.path+" has no floor")
		}
		for _, f := range p.files {
			for _, imported := range f.imports {
				found = append(found, forbidden(p.path, imported)...)
				if name, ours := strings.CutPrefix(imported, module); ours {
					found = append(found, upwards(p.path, name)...)
					if isDriver(name) && !strings.HasPrefix(p.path, "hypervisors/") && p.path != measures {
						drivers[p.path+"/"+f.name] = true
					}
				}
			}
		}
		for _, imported := range p.tests {
			if p.path == "appliance" && (strings.HasPrefix(imported, module+"hypervisors/kvm/lab") || imported == module+"hypervisors/esx/lab") {
				continue // the tests of the shipped program run it against the labs
			}
			found = append(found, forbidden(p.path, imported)...)
		}
	}
	for name := range drivers {
		if len(drivers) > 1 || !strings.HasPrefix(name, "appliance/") {
			found = append(found, name+" names drivers; one file of package appliance does")
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// roomOf finds the longest prefix of path in the plan; empty means none.
func roomOf(path string) string {
	for {
		if _, ok := floors[path]; ok {
			return path
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return ""
		}
		path = path[:i]
	}
}

// upwards checks one import inside the house. On one floor, packages see their own room and the one that it is part of.
func upwards(path, imported string) []string {
	fromRoom, toRoom := roomOf(path), roomOf(imported)
	from, to := floors[fromRoom], floors[toRoom]
	room := fromRoom == toRoom || strings.HasPrefix(fromRoom, toRoom+"/")
	var found []string
	if to > from || to == from && !room {
		found = append(found, fmt.Sprintf("%s (floor %d) imports %s (floor %d)", path, from, imported, to))
	}
	if only, narrow := knows[path]; narrow && !slices.Contains(only, imported) {
		found = append(found, fmt.Sprintf("%s imports %s; it knows only %s", path, imported, strings.Join(only, ", ")))
	}
	return found
}

// forbidden checks one import against the owners of libraries.
func forbidden(path, imported string) []string {
	for library, allowed := range owners {
		below := strings.HasSuffix(library, "/") && strings.HasPrefix(imported, library)
		if imported != library && !below {
			continue
		}
		if !slices.ContainsFunc(allowed, func(owner string) bool { return owns(owner, path) }) {
			return []string{fmt.Sprintf("%s imports %s, which belongs to %s", path, imported, strings.Join(allowed, ", "))}
		}
	}
	return nil
}

func owns(owner, path string) bool {
	room, below := strings.CutSuffix(owner, "/*")
	return path == room || below && strings.HasPrefix(path, room+"/")
}

// isDriver tells drivers from the suite and the lab, which are below hypervisors as well.
func isDriver(path string) bool {
	name, ok := strings.CutPrefix(path, "hypervisors/")
	return ok && !strings.Contains(name, "/") && name != "hypervisortest"
}

// load asks go list for all packages, and each file for its imports.
func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,GoFiles,CgoFiles,TestImports,XTestImports", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var house []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var listed struct {
			ImportPath, Dir                              string
			GoFiles, CgoFiles, TestImports, XTestImports []string
		}
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			return house
		} else if err != nil {
			t.Fatal(err)
		}
		path, ours := strings.CutPrefix(listed.ImportPath, module)
		if !ours {
			continue // the module's root, which holds this test only
		}
		p := pkg{path: path, tests: slices.Concat(listed.TestImports, listed.XTestImports)}
		for _, name := range slices.Concat(listed.GoFiles, listed.CgoFiles) {
			p.files = append(p.files, file{name, importsOf(t, filepath.Join(listed.Dir, name))})
		}
		house = append(house, p)
	}
}

func importsOf(t *testing.T, path string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	require.NoError(t, err)
	var imports []string
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		imports = append(imports, name)
	}
	return imports
}

// The rules themselves, on houses that somebody made up.
func TestViolationsAreFound(t *testing.T) {
	one := func(path string, imports ...string) []pkg {
		return []pkg{{path: path, files: []file{{"a.go", imports}}}}
	}
	for name, c := range map[string]struct {
		house []pkg
		want  string // part of the only violation; empty: none
	}{
		"down":                    {one("api/server", module+"api", module+"ui", "net/http"), ""},
		"up":                      {one("snapshot", module+"hypervisors"), "snapshot (floor 0) imports hypervisors (floor 1)"},
		"up from the API":         {one("api/server", module+"appliance/jobs"), "imports appliance/jobs (floor 4)"},
		"up to a child":           {one("hypervisors", module+"hypervisors/hypervisortest"), "imports hypervisors/hypervisortest (floor 2)"},
		"sideways":                {one("appliance/cli", module+"api"), ""},
		"sideways to the store":   {one("appliance/store", module+"appliance/cli"), "appliance/cli (floor 5)"},
		"sideways to a driver":    {one("hypervisors/kvm", module+"hypervisors/fake"), "hypervisors/fake (floor 2)"},
		"parts of a room":         {one("hypervisors/kvm/lab/guest", module+"hypervisors/kvm/lab/record"), ""},
		"server and client":       {one("api/server", module+"api/client"), "api/client (floor 3)"},
		"words and their server":  {one("api", module+"api/server"), "api/server (floor 3)"},
		"within a room":           {one("snapshot", module+"snapshot/nbd"), ""},
		"no floor":                {one("util"), "util has no floor"},
		"nor by its name":         {one("apiary", "fmt"), "apiary has no floor"},
		"command line":            {one("appliance/cli", module+"hypervisors"), "it knows only api, api/client"},
		"engine":                  {one("appliance/demo", module+"appliance/replication"), "belongs to appliance"},
		"libvirt":                 {one("hypervisors/kvm", "libvirt.org/go/libvirt"), ""},
		"libvirt elsewhere":       {one("hypervisors/fake", "libvirt.org/go/libvirtxml"), "belongs to hypervisors/kvm"},
		"bbolt elsewhere":         {one("appliance/jobs", "go.etcd.io/bbolt"), "belongs to appliance/store"},
		"bbolt in a test":         {[]pkg{{path: "appliance/jobs", tests: []string{"go.etcd.io/bbolt"}}}, "belongs to appliance/store"},
		"gin elsewhere":           {one("api", "github.com/gin-gonic/gin"), "belongs to api/server"},
		"huma elsewhere":          {one("api", "github.com/danielgtaylor/huma/v2"), "belongs to api/server"},
		"cobra elsewhere":         {one("appliance/demo", "github.com/spf13/cobra"), "belongs to appliance, appliance/cli"},
		"lab in a demo":           {one("appliance/demo", module+"hypervisors/kvm/lab"), ""},
		"lab in the appliance":    {one("appliance", module+"hypervisors/kvm/lab"), "belongs to hypervisors/kvm"},
		"part of the lab":         {one("appliance/jobs", module+"hypervisors/kvm/lab/record"), "belongs to hypervisors/kvm"},
		"driver":                  {one("appliance", module+"hypervisors/kvm", module+"hypervisors/fake"), ""},
		"driver in the engine":    {append(one("appliance/replication", module+"hypervisors/kvm"), one("appliance", module+"hypervisors/kvm")...), "appliance/a.go names drivers"},
		"suite is no driver":      {append(one("appliance/replication", module+"hypervisors/hypervisortest"), one("appliance", module+"hypervisors/kvm")...), ""},
		"driver in the bench":     {append(one("appliance/bench", module+"hypervisors/kvm"), one("appliance", module+"hypervisors/kvm")...), ""},
		"driver outside":          {one("guestagent", module+"hypervisors/kvm"), "guestagent/a.go names drivers"},
		"tests may look upwards":  {[]pkg{{path: "appliance/jobs", tests: []string{module + "appliance/store"}}}, ""},
		"tests may name a driver": {[]pkg{{path: "appliance/replication", tests: []string{module + "hypervisors/fake"}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found := violations(c.house)
			if c.want == "" {
				require.Empty(t, found)
				return
			}
			require.NotEmpty(t, found)
			require.Contains(t, strings.Join(found, "\n"), c.want)
		})
	}
}
