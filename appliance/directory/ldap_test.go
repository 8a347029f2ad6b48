package directory_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/access"
	"understudy/appliance/notify/receivers"
)

const (
	reader         = "cn=understudy,dc=example,dc=com"
	readerPassword = "planted-reader-Passw0rd"
	carlsPassword  = "planted-carl-Passw0rd"
)

// entry writes somebody in LDIF.
func entry(dn, uid, password string, more ...string) string {
	return fmt.Sprintf("dn: %s\nobjectClass: inetOrgPerson\nuid: %s\ncn: Mr %s\nsn: %s\nuserPassword: %s\n%s\n\n", dn, uid, uid, uid, password, strings.Join(more, "\n"))
}

const people = "ou=people,dc=example,dc=com"

func entries() string {
	group := func(name string, members ...string) string {
		return fmt.Sprintf("dn: cn=%s,ou=groups,dc=example,dc=com\nobjectClass: groupOfNames\ncn: %s\nmember: %s\n\n", name, name, strings.Join(members, "\nmember: "))
	}
	of := func(group string) string { return "memberOf: cn=" + group + ",ou=groups,dc=example,dc=com" }
	carl, olga := "uid=carl,"+people, "uid=olga,"+people
	strange := `cn=Ann \28*\29\, & co,` + people
	return "dn: dc=example,dc=com\nobjectClass: organization\nobjectClass: dcObject\no: Example\ndc: example\n\n" +
		"dn: " + people + "\nobjectClass: organizationalUnit\nou: people\n\n" +
		"dn: ou=groups,dc=example,dc=com\nobjectClass: organizationalUnit\nou: groups\n\n" +
		"dn: " + reader + "\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: understudy\nuserPassword: " + readerPassword + "\n\n" +
		entry(carl, "carl", carlsPassword, "displayName: Carl C", of("watchers"), of("operators")) +
		entry(olga, "olga", "olgas", of("admins")) +
		entry("uid=nobody,"+people, "nobody", "nobodys") +
		entry("uid=ada,"+people, "ada", "adas in the directory", of("admins")) +
		entry("uid=twin1,"+people, "twin1", "twins", "mail: twin@example.com", of("admins")) +
		entry("uid=twin2,"+people, "twin2", "twins", "mail: twin@example.com", of("admins")) +
		entry(strange, "ann", "anns", of("watchers")) +
		group("admins", olga) + group("operators", carl) + group("watchers", carl, strange)
}

// ldapWorld has a real directory and the settings for it.
func ldapWorld(t *testing.T) (*world, *receivers.Slapd, receivers.Identity) {
	t.Helper()
	id := receivers.NewIdentity(t)
	slapd := receivers.StartSlapd(t, id, reader, entries())
	w := newWorld(t)
	w.mustSet(func(s *api.SignInSettings) { s.LDAP = settingsOf(slapd, id) })
	return w, slapd, id
}

func settingsOf(slapd *receivers.Slapd, id receivers.Identity) *api.LDAPSettings {
	return &api.LDAPSettings{Enabled: true, URL: fmt.Sprintf("ldaps://127.0.0.1:%d", slapd.TLS), CA: id.CA, BindDN: reader, BindPassword: api.NewSecret(readerPassword),
		BaseDN: people, UserFilter: "(|(uid={name})(mail={name}))", GroupAttribute: "memberOf", Roles: []api.RoleMapping{
			{Value: "CN=Admins, OU=Groups, DC=example,DC=com", Role: api.RoleAdministrator},
			{Value: "cn=operators,ou=groups,dc=example,dc=com", Role: api.RoleOperator, Groups: []string{"g2", "g1"}},
			{Value: "cn=watchers,ou=groups,dc=example,dc=com", Role: api.RoleViewer},
		}}
}

// modify changes the directory as its own administrator.
func modify(t *testing.T, slapd *receivers.Slapd, change func(c *ldap.Conn) error) {
	t.Helper()
	c, err := ldap.DialURL(fmt.Sprintf("ldap://127.0.0.1:%d", slapd.Plain))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Bind(receivers.SlapdAdmin, receivers.SlapdPassword))
	require.NoError(t, change(c))
}

func TestSignInByLDAP(t *testing.T) {
	w, slapd, id := ldapWorld(t)
	require.True(t, w.people.Ways().LDAP)

	opened := w.mustSignIn(" Carl ", carlsPassword)
	require.Equal(t, "carl", opened.User.Name)
	require.Equal(t, "Carl C", opened.User.FullName)
	require.Equal(t, "ldap", opened.User.Source)
	require.Equal(t, api.RoleOperator, opened.User.Role, "the highest role wins")
	require.Equal(t, []string{"g1", "g2"}, opened.User.Groups)
	require.Equal(t, api.RoleAdministrator, w.mustSignIn("olga", "olgas").User.Role, "however the group is written")
	require.Equal(t, api.RoleViewer, w.mustSignIn("ann", "anns").User.Role, "whatever is in a distinguished name")

	for name, password := range map[string]string{
		"carl": "wrong", "nobody-at-all": carlsPassword, "": carlsPassword, "*": carlsPassword, "c*": carlsPassword, "carl)(uid=*": carlsPassword,
		"carl)(|(uid=*": "x", `carl\2a`: carlsPassword, "carl\x00": carlsPassword, "{dn}": carlsPassword, "Ä\xff(": "x", strings.Repeat("x", 257): carlsPassword,
	} {
		_, err := w.try(name, password)
		require.ErrorIs(t, err, access.ErrWrong, "%q", name)
		w.pass(time.Minute) // the throttle forgives
	}
	_, err := w.try("olga", "")
	require.ErrorIs(t, err, access.ErrWrong, "the directory lets in everybody without a password, as nobody")
	_, err = w.signIn.Check(t.Context(), "olga", api.Secret{})
	require.ErrorIs(t, err, access.ErrWrong)

	_, err = w.try("nobody", "nobodys")
	require.Equal(t, api.CodeForbidden, api.CodeOf(err))
	require.ErrorContains(t, err, "no group of theirs has a role here")
	_, err = w.try("nobody", "wrong")
	require.ErrorIs(t, err, access.ErrWrong)

	_, err = w.try("twin@example.com", "twins")
	require.Equal(t, api.CodeHost, api.CodeOf(err), "who of the two?")
	require.Equal(t, "twin1", w.mustSignIn("twin1", "twins").User.Name)

	require.Equal(t, "local", w.mustSignIn("ada", right).User.Source)
	_, err = w.try("ada", "adas in the directory")
	require.ErrorIs(t, err, access.ErrWrong, "the directory takes over no local user")

	require.True(t, w.alive(opened))
	w.mustSet(func(s *api.SignInSettings) {
		s.LDAP.URL, s.LDAP.StartTLS, s.LDAP.BindPassword = fmt.Sprintf("ldap://127.0.0.1:%d", slapd.Plain), true, api.NewSecret(readerPassword)
		s.LDAP.GroupAttribute, s.LDAP.GroupFilter, s.LDAP.GroupBaseDN = "", "(member={dn})", "ou=groups,dc=example,dc=com"
	})
	require.False(t, w.alive(opened), "by other settings, everybody signs in again")
	require.Equal(t, []string{"g1", "g2"}, w.mustSignIn("carl", carlsPassword).User.Groups, "StartTLS, and groups by a search")
	require.Equal(t, api.RoleViewer, w.mustSignIn("ann", "anns").User.Role, "a distinguished name is no part of a filter")

	modify(t, slapd, func(c *ldap.Conn) error {
		r := ldap.NewModifyRequest("cn=understudy,dc=example,dc=com", nil)
		r.Replace("userPassword", []string{"another"})
		return c.Modify(r)
	})
	_, err = w.try("carl", carlsPassword)
	require.Equal(t, api.CodeHost, api.CodeOf(err))
	require.NotContains(t, err.Error(), "understudy,dc", "strangers learn nothing of the directory")
	for _, secret := range []string{readerPassword, carlsPassword, "adas in the directory"} {
		require.NotContains(t, w.logged(), secret)
	}
	require.NotContains(t, slapd.Said(), id.KeyFile)
}

func TestDirectoryTakesAccessAway(t *testing.T) {
	w, slapd, _ := ldapWorld(t)
	carl := w.mustSignIn("carl", carlsPassword)
	olga := w.mustSignIn("olga", "olgas")

	modify(t, slapd, func(c *ldap.Conn) error { // a group less
		r := ldap.NewModifyRequest("cn=operators,ou=groups,dc=example,dc=com", nil)
		r.Replace("member", []string{"uid=olga," + people})
		return c.Modify(r)
	})
	require.Equal(t, api.RoleViewer, w.mustSignIn("carl", carlsPassword).User.Role)
	p, err := w.people.Session(carl.Cookie.Reveal(), true)
	require.NoError(t, err)
	require.Equal(t, api.RoleViewer, p.Role, "in all sessions")

	modify(t, slapd, func(c *ldap.Conn) error { return c.Del(ldap.NewDelRequest("uid=carl,"+people, nil)) })
	_, err = w.try("carl", carlsPassword)
	require.ErrorIs(t, err, access.ErrWrong)
	require.False(t, w.alive(carl), "who is gone has no session")

	modify(t, slapd, func(c *ldap.Conn) error { // somebody new with the same name
		r := ldap.NewAddRequest("uid=carl,"+people, nil)
		for name, value := range map[string]string{"objectClass": "inetOrgPerson", "uid": "carl", "cn": "Carl 2", "sn": "C", "userPassword": "new"} {
			r.Attribute(name, []string{value})
		}
		if err := c.Add(r); err != nil {
			return err
		}
		m := ldap.NewModifyRequest("cn=admins,ou=groups,dc=example,dc=com", nil)
		m.Add("member", []string{"uid=carl," + people})
		return c.Modify(m)
	})
	_, err = w.try("carl", "new")
	require.Equal(t, api.CodeConflict, api.CodeOf(err), "is not the one who had it")

	u, err := w.people.GetUser(t.Context(), "olga")
	require.NoError(t, err)
	_, err = w.people.UpdateUser(t.Context(), u.ID, u.Revision, api.UserEdit{Role: u.Role, Disabled: true})
	require.NoError(t, err)
	_, err = w.try("olga", "olgas")
	require.ErrorIs(t, err, access.ErrDisabled)
	require.False(t, w.alive(olga))

	w.mustSet(func(s *api.SignInSettings) { s.LDAP.Enabled = false })
	_, err = w.try("twin1", "twins")
	require.ErrorIs(t, err, access.ErrWrong)
	require.False(t, w.people.Ways().LDAP)
	w.mustSignIn("ada", right)
}

func TestDirectoryThatIsNotTrusted(t *testing.T) {
	w, slapd, id := ldapWorld(t)
	foreign := receivers.NewIdentity(t)
	expired := receivers.NewExpiredIdentity(t)
	late := receivers.StartSlapd(t, expired, reader, entries())
	for name, l := range map[string]*api.LDAPSettings{
		"foreign authority":      settingsOf(slapd, foreign),
		"the system's":           settingsOf(slapd, receivers.Identity{}),
		"expired":                settingsOf(late, expired),
		"no TLS there":           {URL: fmt.Sprintf("ldaps://127.0.0.1:%d", slapd.Plain), CA: id.CA},
		"expired, with StartTLS": {URL: fmt.Sprintf("ldap://127.0.0.1:%d", late.Plain), StartTLS: true, CA: expired.CA},
		"another name":           {URL: fmt.Sprintf("ldaps://[::ffff:127.0.0.2]:%d", slapd.TLS), CA: id.CA},
	} {
		t.Run(name, func(t *testing.T) {
			full := settingsOf(slapd, id)
			full.URL, full.CA, full.StartTLS = l.URL, l.CA, l.StartTLS
			w.mustSet(func(s *api.SignInSettings) { s.LDAP = full })
			_, err := w.try("carl", carlsPassword)
			require.Equal(t, api.CodeHost, api.CodeOf(err))
			w.mustSignIn("ada", right)
		})
	}
	require.NotContains(t, late.Said(), "uid=carl", "nothing was said to it")
}

// silent takes connections, reads, and says these words and no more.
func silent(t *testing.T, words ...byte) (port int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				if n, _ := c.Read(make([]byte, 1024)); n > 0 {
					_, _ = c.Write(words)
				}
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

func TestDirectoryThatHangsKeepsNoLocalUserOut(t *testing.T) {
	w := newWorld(t)
	w.options.Patience = 300 * time.Millisecond
	w.start()
	// An extended response: StartTLS may begin. It never does.
	willing := silent(t, 0x30, 0x0c, 2, 1, 1, 0x78, 7, 0x0a, 1, 0, 4, 0, 4, 0)
	port := silent(t)
	for _, url := range []string{fmt.Sprintf("ldap://127.0.0.1:%d", willing), fmt.Sprintf("ldaps://127.0.0.1:%d", port), fmt.Sprintf("ldap://127.0.0.1:%d", port)} {
		w.mustSet(func(s *api.SignInSettings) {
			s.LDAP = &api.LDAPSettings{Enabled: true, URL: url, StartTLS: strings.HasPrefix(url, "ldap:"), BaseDN: people, UserFilter: "(uid={name})",
				GroupAttribute: "memberOf", Roles: []api.RoleMapping{{Value: "x", Role: api.RoleViewer}}}
		})
		_, err := w.try("carl", carlsPassword)
		require.Equal(t, api.CodeHost, api.CodeOf(err))
	}
	w.options.Patience = time.Hour
	w.start()
	ctx := t.Context()
	var waiting sync.WaitGroup
	codes := make(chan api.Code, 40)
	for range cap(codes) {
		waiting.Go(func() {
			_, err := w.signIn.Check(ctx, "carl", api.NewSecret(carlsPassword))
			codes <- api.CodeOf(err)
		})
	}
	for range cap(codes) - 16 {
		require.Equal(t, api.CodeThrottled, <-codes, "they do not gather")
	}
	w.mustSignIn("ada", right)
}

func TestDirectoryThatIsDown(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.mustSet(func(s *api.SignInSettings) {
		s.LDAP = &api.LDAPSettings{Enabled: true, URL: "ldaps://" + ln.Addr().String(), BaseDN: people, UserFilter: "(uid={name})",
			GroupAttribute: "memberOf", Roles: []api.RoleMapping{{Value: "x", Role: api.RoleViewer}}}
	})
	require.NoError(t, ln.Close())
	_, err = w.try("carl", carlsPassword)
	require.Equal(t, api.CodeHost, api.CodeOf(err))
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Hint, "password of the appliance's own")
	w.mustSignIn("ada", right)
}

func TestTrialOfADirectory(t *testing.T) {
	w, slapd, id := ldapWorld(t)
	try := func(name string, change func(l *api.LDAPSettings)) (api.SignInTest, string) {
		l := settingsOf(slapd, id)
		change(l)
		found, err := w.signIn.TestSignIn(t.Context(), api.SignInTrial{Name: name, Settings: api.SignInSettings{SessionMinutes: 30, LDAP: l}})
		require.NoError(t, err)
		last := found.Checks[len(found.Checks)-1]
		require.Equal(t, found.Passed, last.Passed)
		require.Equal(t, !last.Passed, last.Hint != "")
		return found, last.Name + ": " + last.Message
	}
	found, last := try("carl", func(*api.LDAPSettings) {})
	require.True(t, found.Passed)
	require.Equal(t, "groups: carl would be operator of 2 groups", last)
	found, _ = try("", func(l *api.LDAPSettings) { l.BindPassword = api.Secret{} })
	require.True(t, found.Passed, "with the password that is kept")
	found, last = try("nobody", func(*api.LDAPSettings) {})
	require.False(t, found.Passed)
	require.Contains(t, last, "no group of theirs")
	_, last = try("moon", func(*api.LDAPSettings) {})
	require.Contains(t, last, "user: the directory knows nobody")
	_, last = try("", func(l *api.LDAPSettings) { l.BindPassword = api.NewSecret("wrong") })
	require.Contains(t, last, "bind: ")
	_, last = try("", func(l *api.LDAPSettings) { l.BaseDN = "ou=moon,dc=example,dc=com" })
	require.Contains(t, last, "base: ")
	_, last = try("", func(l *api.LDAPSettings) {
		l.CA = receivers.NewIdentity(t).CA
		l.BindPassword = api.NewSecret(readerPassword)
	})
	require.Contains(t, last, "connect: ")
	require.NotContains(t, w.logged(), readerPassword)
}
