package kvm

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// chain makes a manifest with points p1, p2, …, each with the disks that are listed for it, on those of the one before.
func chain(disks ...[]string) *manifest {
	m := &manifest{Version: 1, Owner: "owner123", Replica: "r", VM: "x"}
	for i, ids := range disks {
		p := point{Meta: hypervisors.Point{ID: "p" + string(rune('1'+i))}}
		for _, id := range ids {
			d := pointDisk{ID: id, Size: 1 << 20, Data: image{File: dataFile(id, p.Meta.ID)}, Map: image{File: mapFile(id, p.Meta.ID)}}
			if below := m.newest(); below != nil && below.disk(id) != nil {
				d.Data.Backing, d.Map.Backing = below.disk(id).Data.File, below.disk(id).Map.File
			}
			p.Disks = append(p.Disks, d)
		}
		m.Points = append(m.Points, p)
	}
	return m
}

func TestNextRemovalTakesTheNewestThatNothingStandsOn(t *testing.T) {
	vda := []string{"vda"}
	m := chain(vda, vda, vda, vda)
	_, ok := m.nextRemoval(-1)
	require.False(t, ok, "nothing is hidden")

	m.Points[0].Hidden, m.Points[2].Hidden = true, true
	next, ok := m.nextRemoval(-1)
	require.True(t, ok)
	require.Equal(t, removal{Point: 2, Into: 3}, next)

	next, ok = m.nextRemoval(1)
	require.True(t, ok)
	require.Equal(t, removal{Point: 2, Into: 3}, next)
	_, ok = m.nextRemoval(2)
	require.False(t, ok, "a run stands on p3 and so on p1")

	m.Points[3].Hidden = true
	next, _ = m.nextRemoval(-1)
	require.Equal(t, removal{Point: 3, Into: -1}, next, "the newest point is just deleted")
}

func TestFoldsFollowTheImagesAndNotTheNames(t *testing.T) {
	// vdb is new in p2; vdc is gone in p2.
	m := chain([]string{"vda", "vdc"}, []string{"vda", "vdb"}, []string{"vda", "vdb"})
	// vdb of p3 was made anew because it became smaller.
	m.Points[2].disk("vdb").Data.Backing, m.Points[2].disk("vdb").Map.Backing = "", ""

	do, unneeded := m.folds(0)
	require.Equal(t, []fold{{"vda.p1.qcow2", "vda.p2.qcow2"}, {"vda.p1.map", "vda.p2.map"}}, do)
	require.Equal(t, []string{"vdc.p1.qcow2", "vdc.p1.map"}, unneeded)

	do, unneeded = m.folds(1)
	require.Equal(t, []fold{{"vda.p2.qcow2", "vda.p3.qcow2"}, {"vda.p2.map", "vda.p3.map"}}, do)
	require.Equal(t, []string{"vdb.p2.qcow2", "vdb.p2.map"}, unneeded)
}

func TestRemoveHandsTheBackingOn(t *testing.T) {
	m := chain([]string{"vda"}, []string{"vda"}, []string{"vda"})
	m.Points[0].Disks[0].Data.Backing = "/own/disk.raw"
	m.remove(1)
	require.Equal(t, image{"vda.p3.qcow2", "vda.p1.qcow2"}, m.Points[1].Disks[0].Data)
	require.Equal(t, image{"vda.p3.map", "vda.p1.map"}, m.Points[1].Disks[0].Map)
	m.remove(0)
	require.Equal(t, image{"vda.p3.qcow2", "/own/disk.raw"}, m.Points[0].Disks[0].Data)
	require.Equal(t, image{"vda.p3.map", ""}, m.Points[0].Disks[0].Map)
}

func TestFilesAreAllThatIsNeeded(t *testing.T) {
	m := chain([]string{"vda"}, []string{"vda"})
	m.Points[0].Hidden = true
	m.Stage.Disks = []string{"vda"}
	m.Tests = []testRun{{ID: "a", Disks: []string{"vda"}}}
	require.Equal(t, map[string]bool{"manifest.json": true, "vda.p1.qcow2": true, "vda.p1.map": true, "vda.p2.qcow2": true,
		"vda.p2.map": true, "vda_stage.qcow2": true, "vda_test-a.qcow2": true}, m.files())
}

func TestNoTwoFilesShareAName(t *testing.T) {
	seen := map[string]string{}
	add := func(name, what string) {
		require.Empty(t, seen[name], "%s is also %s", name, what)
		seen[name] = what
	}
	for _, id := range []string{"a", "a.map", "stage", "test-a", "a.qcow2", "map", "a.map.qcow2"} {
		require.NoError(t, valid("point", pointID, id))
		add(dataFile("vda", id), "data of "+id)
		add(mapFile("vda", id), "map of "+id)
	}
	for _, id := range []string{"a", "stage"} {
		add(testFile("vda", id), "test "+id)
	}
	add(stageFile("vda"), "stage")
}

func TestLayout(t *testing.T) {
	m := chain([]string{"vda", "vdb"})
	m.Adopted = &adopted{Disks: []ground{{Disk: "vda", Path: "/own/a.raw", Format: "raw", Size: 1 << 20}, {Disk: "vdc", Path: "/own/c.qcow2", Format: "qcow2", Size: 1 << 20}}}
	got := layout(m, hypervisors.DraftRequest{Point: "p2", Disks: []hypervisors.DraftDiskSpec{
		{ID: "vda", Size: 2 << 20}, {ID: "vdb", Size: 1 << 19}, {ID: "vdc", Size: 1 << 20}, {ID: "vdd", Size: 1 << 20, Bus: "scsi"}}})
	require.Equal(t, []pointDisk{
		{ID: "vda", Size: 2 << 20, Data: image{"vda.p2.qcow2", "vda.p1.qcow2"}, Map: image{"vda.p2.map", "vda.p1.map"}},
		{ID: "vdb", Size: 1 << 19, Data: image{"vdb.p2.qcow2", ""}, Map: image{"vdb.p2.map", ""}},
		{ID: "vdc", Size: 1 << 20, Data: image{"vdc.p2.qcow2", "/own/c.qcow2"}, Map: image{"vdc.p2.map", ""}},
		{ID: "vdd", Bus: "scsi", Size: 1 << 20, Data: image{"vdd.p2.qcow2", ""}, Map: image{"vdd.p2.map", ""}},
	}, got)
}

func TestManifestFromANewerVersionIsRefused(t *testing.T) {
	m := chain([]string{"vda"})
	m.Version = manifestVersion + 1
	data, err := json.Marshal(m)
	require.NoError(t, err)
	_, err = parseManifest(data)
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
	_, err = parseManifest(data[:len(data)/2])
	require.Error(t, err)

	m.Version = manifestVersion
	data, err = json.Marshal(m)
	require.NoError(t, err)
	back, err := parseManifest(data)
	require.NoError(t, err)
	require.Equal(t, m, back)
}

func TestDraftRequestsThatCannotBe(t *testing.T) {
	m := chain([]string{"vda"})
	m.Adopted = &adopted{Disks: []ground{{Disk: "vdb", Size: 1 << 20}}}
	disk := func(id string, size int64) []hypervisors.DraftDiskSpec {
		return []hypervisors.DraftDiskSpec{{ID: id, Size: size}}
	}
	for name, req := range map[string]hypervisors.DraftRequest{
		"no point":        {Disks: disk("vda", 1<<20)},
		"point is there":  {Point: "p1", Disks: disk("vda", 1<<20)},
		"bad point":       {Point: "../p2", Disks: disk("vda", 1<<20)},
		"no disk":         {Point: "p2"},
		"bad disk":        {Point: "p2", Disks: disk("../vda", 1<<20)},
		"twice":           {Point: "p2", Disks: append(disk("vda", 1<<20), disk("vda", 1<<20)...)},
		"no size":         {Point: "p2", Disks: disk("vda", 0)},
		"part of sector":  {Point: "p2", Disks: disk("vda", 1000)},
		"own disk shrunk": {Point: "p2", Disks: disk("vdb", 1<<19)},
	} {
		require.ErrorIs(t, checkDraft(m, req), hypervisors.ErrInvalid, name)
	}
	require.NoError(t, checkDraft(m, hypervisors.DraftRequest{Point: "p2", Disks: disk("vda", 1<<19)}))
}
