package esx

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSystemsHaveNamesOnBothSides(t *testing.T) {
	for name, id := range map[string]string{
		"windows2019srv_64Guest": "http://microsoft.com/win/2k19",
		"debian12_64Guest":       "http://debian.org/debian/12",
		"rhel9_64Guest":          "http://redhat.com/rhel/9",
		"solaris11_64Guest":      "vmware:solaris11_64Guest",
		"debian_64Guest":         "vmware:debian_64Guest",
	} {
		require.Equal(t, id, osOf(name))
		require.Equal(t, name, nameOf(id))
	}
	for id, name := range map[string]string{
		"http://redhat.com/rhel/9.4": "rhel9_64Guest", "http://ubuntu.com/ubuntu/24.04": "ubuntu64Guest", "http://microsoft.com/win/2k12": "windows8Server64Guest",
		"http://microsoft.com/win/2k": "", "http://debian.org/debian/testing": "", "": "",
	} {
		require.Equal(t, name, nameOf(id), id)
	}
	require.Empty(t, osOf("otherGuest64"), "nobody said what it is")
}
