package directory

import (
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"understudy/api"
)

// mapped gives what the groups of somebody map to: the highest role, and of the mappings that give it, everything that any
// of them lets see. Whoever is in no group that is mapped has no role.
func mapped(roles []api.RoleMapping, groups []string, same func(a, b string) bool) (role api.Role, scope []string, ok bool) {
	for _, m := range roles {
		if !slices.ContainsFunc(groups, func(g string) bool { return same(m.Value, g) }) {
			continue
		}
		switch {
		case !ok || m.Role.Includes(role) && m.Role != role:
			role, scope, ok = m.Role, slices.Clone(m.Groups), true
		case m.Role == role && len(scope) > 0 && len(m.Groups) == 0:
			scope = nil
		case m.Role == role && len(scope) > 0:
			scope = append(scope, m.Groups...)
		}
	}
	slices.Sort(scope)
	return role, slices.Compact(scope), ok
}

// sameDN compares names of groups in a directory, which are mostly distinguished names: written with other capitals and
// spaces they are the same.
func sameDN(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, errX := ldap.ParseDN(a)
	y, errY := ldap.ParseDN(b)
	return errX == nil && errY == nil && len(x.RDNs) > 0 && x.EqualFold(y)
}

func same(a, b string) bool { return a == b }
