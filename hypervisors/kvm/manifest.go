package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"understudy/hypervisors"
)

// manifestVersion is the newest layout that this code reads and writes.
const manifestVersion = 1

// manifest is all we know about a replica, kept in its folder beside its files. It is the truth: a file that no
// manifest names is a leftover, and writing the manifest (atomically, after everything it names is durable) is what
// commits a point.
//
// Points form one chain, oldest first; the files of a point stand on those of the point before. Files are names within
// the replica's folder.
type manifest struct {
	Version  int                  `json:"version"`
	Owner    string               `json:"owner"`
	Replica  string               `json:"replica"`
	VM       string               `json:"vm"`
	Hardware hypervisors.Hardware `json:"hardware"`
	Points   []point              `json:"points"`
	Stage    stage                `json:"stage"`
	Live     *liveRun             `json:"live,omitempty"`
	Tests    []testRun            `json:"tests,omitempty"`

	// Unconverted is the definition of the machine before a live run with a converted guest gave it other devices; empty: it
	// has its own. It gets them back when that run has ended.
	Unconverted string `json:"unconverted,omitempty"`
	// Adopted has what an adopted machine was before; nil for a machine that we made.
	Adopted *adopted `json:"adopted,omitempty"`
	// Removed: the replica is no more, only what is left of its files must still go.
	Removed bool `json:"removed,omitempty"`
}

// adopted is a machine before it became a replica.
type adopted struct {
	// Definition is its inactive XML.
	Definition string `json:"definition"`
	// Disks are its own, below the first point.
	Disks []ground `json:"disks"`
	// Autostart: it started with its host.
	Autostart bool `json:"autostart,omitempty"`
	// Settling says that the newest point is being written into the disks: only that one is whole from now on, and all
	// that can be done is to go on settling.
	Settling bool `json:"settling,omitempty"`
}

// ground is a disk of an adopted machine.
type ground struct {
	Disk   string `json:"disk"`
	Path   string `json:"path"`
	Format string `json:"format"`
	Size   int64  `json:"size"`
}

// point is one recovery point.
type point struct {
	Meta hypervisors.Point `json:"meta"`
	// Hidden: dropped, but a later point still stands on its files.
	Hidden bool        `json:"hidden,omitempty"`
	Disks  []pointDisk `json:"disks"`
}

// pointDisk is one disk of a point, with its block map.
type pointDisk struct {
	ID   string `json:"id"`
	Bus  string `json:"bus,omitempty"`
	Boot int    `json:"boot,omitempty"`
	Size int64  `json:"size"`
	Data image  `json:"data"`
	Map  image  `json:"map"`
}

// image is a qcow2 file and the one below it: a file of the point before, the absolute path of an adopted machine's own
// disk, or nothing.
type image struct {
	File    string `json:"file"`
	Backing string `json:"backing,omitempty"`
}

// stage is what the replica machine boots from: one throw-away overlay for each disk.
type stage struct {
	// Point that the overlays stand on; empty: none (empty disks, or an adopted machine's own).
	Point string   `json:"point"`
	Disks []string `json:"disks"`
	// Stale: the overlays must be made anew before the machine may start, whatever Point says.
	Stale bool `json:"stale,omitempty"`
}

// liveRun is an ordered live run.
type liveRun struct {
	Point string `json:"point"`
	// Devices that the guest was converted to; nil: it was not.
	Devices *devices `json:"devices,omitempty"`
}

// testRun is an ordered test.
type testRun struct {
	ID    string   `json:"id"`
	Point string   `json:"point"`
	VM    string   `json:"vm"`
	Disks []string `json:"disks"`
	// Ready: the overlays are whole, and may hold what the test wrote.
	Ready bool `json:"ready,omitempty"`
	// Devices as those of a live run.
	Devices *devices `json:"devices,omitempty"`
}

func (t *testRun) file(disk string) string { return testFile(disk, t.ID) }

// devices are those that a converted guest has drivers for.
type devices struct {
	Bus        string `json:"bus"`
	Controller string `json:"controller,omitempty"`
	NIC        string `json:"nic"`
}

func (p *point) disk(id string) *pointDisk {
	for i := range p.Disks {
		if p.Disks[i].ID == id {
			return &p.Disks[i]
		}
	}
	return nil
}

func (p *point) diskIDs() []string {
	var ids []string
	for _, d := range p.Disks {
		ids = append(ids, d.ID)
	}
	return ids
}

// index finds a point in the chain, hidden or not; -1: unknown.
func (m *manifest) index(id string) int {
	return slices.IndexFunc(m.Points, func(p point) bool { return p.Meta.ID == id })
}

// visible finds a point that was not dropped.
func (m *manifest) visible(id string) (*point, bool) {
	i := m.index(id)
	if i < 0 || m.Points[i].Hidden {
		return nil, false
	}
	return &m.Points[i], true
}

// holds says that a point was committed with just this content, which its digests prove.
func (m *manifest) holds(p hypervisors.Point) bool {
	have, ok := m.visible(p.ID)
	return ok && have.Meta.ChangeID == p.ChangeID && slices.Equal(have.Meta.Disks, p.Disks)
}

// newest is the end of the chain, nil when there is no point.
func (m *manifest) newest() *point {
	if len(m.Points) == 0 {
		return nil
	}
	return &m.Points[len(m.Points)-1]
}

func (m *manifest) ground(disk string) *ground {
	if m.Adopted == nil {
		return nil
	}
	for i := range m.Adopted.Disks {
		if m.Adopted.Disks[i].Disk == disk {
			return &m.Adopted.Disks[i]
		}
	}
	return nil
}

func (m *manifest) test(id string) *testRun {
	for i := range m.Tests {
		if m.Tests[i].ID == id {
			return &m.Tests[i]
		}
	}
	return nil
}

// files are all names in the replica's folder that must stay.
func (m *manifest) files() map[string]bool {
	keep := map[string]bool{manifestFile: true}
	for _, p := range m.Points {
		for _, d := range p.Disks {
			keep[d.Data.File], keep[d.Map.File] = true, true
		}
	}
	for _, d := range m.Stage.Disks {
		keep[stageFile(d)] = true
	}
	if m.Live != nil { // its stage may be in the making
		if i := m.index(m.Live.Point); i >= 0 {
			for _, d := range m.Points[i].diskIDs() {
				keep[stageFile(d)] = true
			}
		}
	}
	for _, t := range m.Tests {
		for _, d := range t.Disks {
			keep[testFile(d, t.ID)] = true
		}
	}
	return keep
}

// removal is the next thing that can be done about dropped points.
type removal struct {
	// Point is the position of the point that goes.
	Point int
	// Into is the position of the point that takes its data over; -1: nobody needs it.
	Into int
}

// nextRemoval finds a dropped point whose place can be cleared while nothing reads or writes at position top or below.
// The newest one goes first, so that data moves down the chain once and not through each of its links.
func (m *manifest) nextRemoval(top int) (removal, bool) {
	for i := len(m.Points) - 1; i > top; i-- {
		if !m.Points[i].Hidden {
			continue
		}
		if i == len(m.Points)-1 {
			return removal{Point: i, Into: -1}, true
		}
		return removal{Point: i, Into: i + 1}, true
	}
	return removal{}, false
}

// fold is one image that takes over the data below it: the data of Over is written into Under, which then takes its
// name, so that whatever stands on Over never notices.
type fold struct {
	Under, Over string
}

// folds says which images of the point at i must be folded into the one that stands on it, and which are simply
// unneeded: those of disks that the next point does not have, or has anew.
func (m *manifest) folds(i int) (do []fold, unneeded []string) {
	for _, d := range m.Points[i].Disks {
		over := m.Points[i+1].disk(d.ID)
		for _, part := range imageParts {
			under := part(&d)
			if over != nil && part(over).Backing == under.File {
				do = append(do, fold{Under: under.File, Over: part(over).File})
			} else {
				unneeded = append(unneeded, under.File)
			}
		}
	}
	return do, unneeded
}

// imageParts are the two images that a disk of a point has; all that happens to the one happens to the other.
var imageParts = []func(*pointDisk) *image{
	func(d *pointDisk) *image { return &d.Data },
	func(d *pointDisk) *image { return &d.Map },
}

// remove takes the point at i out of the chain; what stood on its files stands on what they stood on.
func (m *manifest) remove(i int) {
	gone := m.Points[i]
	if i+1 < len(m.Points) {
		for j := range m.Points[i+1].Disks {
			over := &m.Points[i+1].Disks[j]
			under := gone.disk(over.ID)
			if under == nil {
				continue
			}
			for _, part := range imageParts {
				if part(over).Backing == part(under).File {
					part(over).Backing = part(under).Backing
				}
			}
		}
	}
	m.Points = slices.Delete(m.Points, i, i+1)
}

// Names in a replica's folder. Disk ids have neither a dot nor an underscore and the ids of points no underscore, so
// that no two of these can be the same.
const manifestFile = "manifest.json"

func dataFile(disk, point string) string { return disk + "." + point + ".qcow2" }
func mapFile(disk, point string) string  { return disk + "." + point + ".map" }
func stageFile(disk string) string       { return disk + "_stage.qcow2" }
func testFile(disk, run string) string   { return disk + "_test-" + run + ".qcow2" }
func scratchDir(run string) string       { return "convert-" + run }

var (
	replicaID = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	pointID   = regexp.MustCompile(`^[a-z0-9.-]{1,40}$`)
	runID     = regexp.MustCompile(`^[a-z0-9-]{1,20}$`)
	diskID    = regexp.MustCompile(`^[a-z][a-z0-9-]{1,15}$`)
)

// valid rejects ids that would not make a file name.
func valid(what string, form *regexp.Regexp, id string) error {
	if !form.MatchString(id) {
		return fmt.Errorf("%s %q must match %s: %w", what, id, form, hypervisors.ErrInvalid)
	}
	return nil
}

// readManifest loads the manifest of a replica's folder; fs.ErrNotExist when there is none.
func readManifest(ctx context.Context, p place, dir string) (*manifest, error) {
	data, err := readFile(ctx, p, path.Join(dir, manifestFile))
	if err != nil {
		return nil, err
	}
	return parseManifest(data)
}

func parseManifest(data []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w: %w", manifestFile, hypervisors.ErrInvalid, err)
	}
	if m.Version < 1 || m.Version > manifestVersion {
		return nil, fmt.Errorf("%s has version %d, this program knows up to %d: %w",
			manifestFile, m.Version, manifestVersion, hypervisors.ErrInvalid)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%s makes no sense: %w: %w", manifestFile, hypervisors.ErrInvalid, err)
	}
	return &m, nil
}

// check refuses what this code never wrote and could not work with: names are of files in the replica's folder and
// nowhere else, because files are removed and written by them, nothing is there twice, and images stand on what is there.
func (m *manifest) check() error {
	seen := map[string]bool{}
	once := func(kind, name string) error {
		if name == "" || name == "." || name == ".." || path.Base(name) != name || strings.ContainsRune(name, 0) {
			return fmt.Errorf("%s %q", kind, name)
		}
		if seen[kind+"/"+name] {
			return fmt.Errorf("%s %s twice", kind, name)
		}
		seen[kind+"/"+name] = true
		return nil
	}
	var errs []error
	for i, p := range m.Points {
		errs = append(errs, once("point", p.Meta.ID))
		for _, d := range p.Disks {
			errs = append(errs, once("disk of "+p.Meta.ID, d.ID), once("file", d.Data.File), once("file", d.Map.File), m.stands(i, &d))
		}
	}
	for _, d := range m.Stage.Disks {
		errs = append(errs, once("file", stageFile(d)))
	}
	for _, t := range m.Tests {
		errs = append(errs, once("test", t.ID))
		for _, d := range t.Disks {
			errs = append(errs, once("file", testFile(d, t.ID)))
		}
	}
	if seen["file/"+manifestFile] {
		errs = append(errs, errors.New("an image has the manifest's name"))
	}
	return errors.Join(errs...)
}

// stands refuses a disk of the point at i whose images stand on anything but the same disk of the point before, or on an
// adopted machine's own.
func (m *manifest) stands(i int, d *pointDisk) error {
	var below *pointDisk
	if i > 0 {
		below = m.Points[i-1].disk(d.ID)
	}
	for _, part := range imageParts {
		on := part(d).Backing
		if on == "" || path.IsAbs(on) || below != nil && on == part(below).File {
			continue
		}
		return fmt.Errorf("image %s stands on %q, which is not of the point before", part(d).File, on)
	}
	return nil
}

func writeManifest(ctx context.Context, p place, dir string, m *manifest) error {
	m.Version = manifestVersion
	data, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return writeFileAtomic(ctx, p, path.Join(dir, manifestFile), append(data, '\n'))
}

// absent says that a file or folder is not there.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
