package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/hypervisors"
)

// User and password are taken where a host signs in by them, and refused elsewhere with why, before anything is connected.
func TestWhoTakesAPassword(t *testing.T) {
	secret := api.NewSecret("planted-Passw0rd")
	connect := connector(slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		to          replication.Login
		field, said string
	}{
		{replication.Login{URI: "qemu:///system", User: "root", Password: secret}, "user", "takes no user"},
		{replication.Login{URI: "qemu+unix:///system", Password: secret}, "password", "takes no password"},
		{replication.Login{URI: "qemu+ssh://root@h/system", User: "r", Password: secret}, "user", "takes no user"},
		{replication.Login{URI: "esx://h/", Password: secret}, "user", "needs a user"},
		{replication.Login{URI: "esx://h/", User: "root"}, "password", "is missing"},
	} {
		_, err := connect(t.Context(), c.to, "0a0b0c0d")
		var e *api.Error
		require.ErrorAs(t, err, &e, c.to.URI)
		require.Equal(t, api.CodeInvalid, e.Code)
		require.Equal(t, c.field, e.Field, c.to.URI)
		require.Contains(t, e.Message, c.said)
		require.NotEmpty(t, e.Hint)
	}
	_, err := connect(t.Context(), replication.Login{URI: "hyperv://h/", User: "root", Password: secret}, "0a0b0c0d")
	require.ErrorIs(t, err, hypervisors.ErrScheme)
	for scheme := range drivers {
		require.Contains(t, hypervisors.Hint(err), scheme+":", "the hint names every driver")
	}
	_, err = connect(t.Context(), replication.Login{URI: "esx://root:planted@h/", User: "root", Password: secret}, "0a0b0c0d")
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
	require.False(t, strings.Contains(err.Error(), "planted"))
}
