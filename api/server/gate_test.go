package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func TestRolesAndScopes(t *testing.T) {
	r := &recorder{} // every group is "some"
	s := New(Parts{Service: r}, Options{})
	everything, here, elsewhere := api.Scope(nil), api.Scope{"some"}, api.Scope{"other"}
	for _, c := range []struct {
		n     need
		role  api.Role
		scope api.Scope
		want  api.Code // empty: let through
	}{
		{self, "", everything, ""},
		{viewer.on(filtered), "", everything, api.CodeForbidden},
		{viewer.on(filtered), "somebody", everything, api.CodeForbidden},
		{viewer.on(filtered), api.RoleViewer, elsewhere, ""},
		{operator.on(groups), api.RoleViewer, everything, api.CodeForbidden},
		{operator.on(groups), api.RoleOperator, everything, ""},
		{operator.on(groups), api.RoleOperator, here, ""},
		{operator.on(groups), api.RoleOperator, elsewhere, api.CodeNotFound},
		{viewer.on(jobs), api.RoleViewer, here, ""},
		{viewer.on(jobs), api.RoleViewer, api.Scope{}, api.CodeNotFound},
		{viewer.on(hosts), api.RoleViewer, here, api.CodeForbidden},
		{viewer.on(hosts), api.RoleViewer, everything, ""},
		{administrator.on(appliance), api.RoleOperator, everything, api.CodeForbidden},
		{administrator.on(appliance), api.RoleAdministrator, everything, ""},
	} {
		err := s.allowed(t.Context(), c.n, api.Principal{Role: c.role, Scope: c.scope}, "some")
		if c.want == "" {
			require.NoError(t, err, c)
			continue
		}
		require.Equal(t, c.want, api.CodeOf(err), c)
	}
}

// A route that somebody adds past register is shut.
func TestRouteWithoutNeedIsShut(t *testing.T) {
	url, _ := start(t, &recorder{}, func(s *Server) { delete(s.needs, "GET /api/v1/about") })
	resp, p := send(t, http.MethodGet, url+"/api/v1/about", "")
	require.Equal(t, http.StatusForbidden, resp.StatusCode, p)
}

// Whatever has a group or a job in its path is kept to the scope.
func TestPathsAreKeptToTheScope(t *testing.T) {
	s := New(Parts{Service: &recorder{}}, Options{})
	for path, g := range s.needs {
		for name, of := range map[string]thing{"/groups/:id": groups, "/jobs/:id": jobs, "/hosts": hosts} {
			if !strings.Contains(path, prefix+name) {
				continue
			}
			require.Equal(t, of.whole, g.thing.whole, path)
			require.Equal(t, of.group == nil, g.thing.group == nil, path)
		}
	}
}
