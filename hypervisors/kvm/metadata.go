package kvm

import (
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// replicaNS is the XML namespace of what we write into the metadata of machines.
const replicaNS = "https://understudy.dev/replica"

// replicaMark is how a machine that is ours says so, in the metadata of its definition:
//
//	<understudy:replica xmlns:understudy="https://understudy.dev/replica" id="…" owner="…" run="…"/>
//
// It is kept by libvirt through every start, stop and edit, and read by any appliance.
type replicaMark struct {
	XMLName xml.Name `xml:"https://understudy.dev/replica replica"`
	// ID is the replica, as hypervisors.ReplicaSpec.ID.
	ID string `xml:"id,attr"`
	// Owner is the appliance that made it.
	Owner string `xml:"owner,attr"`
	// Run is the id of the test run this machine is; empty for the replica machine itself.
	Run string `xml:"run,attr"`
}

// markup is the metadata of a machine definition, for libvirtxml.DomainMetadata.
func (m replicaMark) markup() string {
	return fmt.Sprintf(`<understudy:replica xmlns:understudy=%s id=%s owner=%s run=%s/>`,
		quoteXML(replicaNS), quoteXML(m.ID), quoteXML(m.Owner), quoteXML(m.Run))
}

// readerNS marks a machine that is off for everybody, and that we started paused only to read its disks. The mark is
// in the running definition alone and goes with the process.
const readerNS = "https://understudy.dev/reader"

type readerMark struct {
	XMLName xml.Name `xml:"https://understudy.dev/reader reader"`
	Owner   string   `xml:"owner,attr"`
}

func (m readerMark) markup() string {
	return fmt.Sprintf(`<understudyreader:reader xmlns:understudyreader=%s owner=%s/>`, quoteXML(readerNS), quoteXML(m.Owner))
}

// marks are what a machine's metadata says about us; nil where it says nothing.
type marks struct {
	Replica *replicaMark `xml:"https://understudy.dev/replica replica"`
	Reader  *readerMark  `xml:"https://understudy.dev/reader reader"`
}

// readMarks finds our marks among the metadata of a machine; foreign or broken metadata counts as none.
func readMarks(d *libvirtxml.Domain) marks {
	var m marks
	if d.Metadata == nil {
		return m
	}
	if err := xml.Unmarshal([]byte("<metadata>"+d.Metadata.XML+"</metadata>"), &m); err != nil {
		return marks{}
	}
	return m
}

// quoteXML makes a quoted attribute value.
func quoteXML(s string) string {
	var b []byte
	b = append(b, '"')
	for _, r := range s {
		switch r {
		case '"':
			b = append(b, "&quot;"...)
		case '&':
			b = append(b, "&amp;"...)
		case '<':
			b = append(b, "&lt;"...)
		case '>':
			b = append(b, "&gt;"...)
		default:
			b = append(b, string(r)...)
		}
	}
	return string(append(b, '"'))
}
