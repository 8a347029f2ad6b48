package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"understudy/api"
	"understudy/appliance/access"
)

const (
	sourceLDAP = "ldap"
	sourceOIDC = "oidc"
	maxName    = 256 // bytes
	// maxAnswers bounds what a directory may answer to one sign-in, in bytes.
	maxAnswers = 16 << 20
	maxGroups  = 2000
)

// Attributes that name an entry for good, in the order of trust: RFC 4530, Active Directory, FreeIPA, 389.
var idAttributes = []string{"entryUUID", "objectGUID", "ipaUniqueID", "nsUniqueId"}

// errAmbiguous: whom would we let in?
var errAmbiguous = errors.New("the filter finds more than one entry")

func init() { ber.MaxPacketLengthBytes = maxAnswers } // or a length that somebody claims is allocated

// Check implements access.Directory.
func (d *Directory) Check(ctx context.Context, name string, password api.Secret) (access.Identity, error) {
	l := d.settings.Load().LDAP
	if l == nil || !l.Enabled || password.IsZero() || name == "" || len(name) > maxName {
		return access.Identity{}, access.ErrWrong // without a password, many directories let in everybody as nobody
	}
	ctx, done, err := d.turn(ctx)
	if err != nil {
		return access.Identity{}, err
	}
	defer done()
	identity, err := d.check(ctx, *l, name, password)
	for _, known := range []error{access.ErrWrong, access.ErrGone, access.ErrNoRole} {
		if errors.Is(err, known) {
			return identity, known
		}
	}
	if err != nil {
		// The details are for the log: who signs in may be anybody.
		d.Log.Error("the directory cannot be asked", "url", l.URL, "error", err)
		return access.Identity{}, api.Errorf(api.CodeHost, "Try again later, or sign in as a user with a password of the appliance's own.", "the directory does not answer as it should")
	}
	return identity, nil
}

func (d *Directory) check(ctx context.Context, l api.LDAPSettings, name string, password api.Secret) (access.Identity, error) {
	bindPassword, err := d.bindPassword(l)
	if err != nil {
		return access.Identity{}, err
	}
	s, err := dialLDAP(ctx, l)
	if err != nil {
		return access.Identity{}, err
	}
	defer s.close()
	if err := s.bind(bindPassword); err != nil {
		return access.Identity{}, err
	}
	p, err := s.find(name)
	if err != nil {
		return access.Identity{}, err
	}
	if err := s.prove(p, password); err != nil {
		return access.Identity{}, err
	}
	return p.identity(l)
}

func (d *Directory) bindPassword(l api.LDAPSettings) (api.Secret, error) {
	if l.BindDN == "" || !l.BindPassword.IsZero() {
		return l.BindPassword, nil
	}
	return d.Secrets.Get(secretLDAP)
}

// person is an entry of somebody.
type person struct {
	dn, id, name, fullName string
	groups                 []string
}

// identity gives who it is with the role; ErrNoRole comes with the rest.
func (p person) identity(l api.LDAPSettings) (access.Identity, error) {
	i := access.Identity{Source: sourceLDAP, Subject: p.id, Name: p.name, FullName: p.fullName}
	var ok bool
	if i.Role, i.Groups, ok = mapped(l.Roles, p.groups, sameDN); !ok {
		return i, access.ErrNoRole
	}
	return i, nil
}

// ldapSession is one connection, for one sign-in. Everything in it ends with its context.
type ldapSession struct {
	api.LDAPSettings
	conn    *ldap.Conn
	raw     net.Conn
	seconds int
	stop    func() bool
}

// bounded is a connection that gives so many bytes and no more.
type bounded struct {
	net.Conn
	left io.Reader
}

func (b bounded) Read(p []byte) (int, error) { return b.left.Read(p) }

// dialLDAP connects, encrypted in any case.
func dialLDAP(ctx context.Context, l api.LDAPSettings) (*ldapSession, error) {
	u, err := url.Parse(l.URL)
	if err != nil {
		return nil, err
	}
	port := cmp.Or(u.Port(), map[string]string{"ldap": "389", "ldaps": "636"}[u.Scheme])
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	s := &ldapSession{LDAPSettings: l, raw: raw, seconds: 1}
	if deadline, ok := ctx.Deadline(); ok {
		s.seconds = max(1, int(time.Until(deadline).Seconds()))
	}
	s.stop = context.AfterFunc(ctx, func() { raw.Close() }) // handshakes of the library know no context
	if err := s.encrypt(ctx, u); err != nil {
		s.close()
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return s, nil
}

func (s *ldapSession) encrypt(ctx context.Context, u *url.URL) error {
	config := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, RootCAs: roots(s.CA)}
	limited := bounded{s.raw, io.LimitReader(s.raw, maxAnswers)}
	if u.Scheme == "ldap" {
		s.start(limited, false)
		return s.conn.StartTLS(config)
	}
	sealed := tls.Client(limited, config)
	if err := sealed.HandshakeContext(ctx); err != nil {
		return err
	}
	s.start(sealed, true)
	return nil
}

func (s *ldapSession) start(conn net.Conn, sealed bool) {
	s.conn = ldap.NewConn(conn, sealed)
	s.conn.SetTimeout(time.Duration(s.seconds) * time.Second)
	s.conn.Start()
}

// roots of the certificates in PEM; nil, which means those of the system, of none.
func roots(pem string) *x509.CertPool {
	if pem == "" {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(pem)) // Validate has seen one
	return pool
}

func (s *ldapSession) close() {
	s.stop()
	s.raw.Close() // first: the library would wait for an answer
	if s.conn != nil {
		s.conn.Close()
	}
}

// bind signs the appliance itself in.
func (s *ldapSession) bind(password api.Secret) error {
	if s.BindDN == "" {
		return nil
	}
	if err := s.conn.Bind(s.BindDN, password.Reveal()); err != nil {
		return fmt.Errorf("sign in as %s: %w", s.BindDN, err)
	}
	return nil
}

// filled puts what is asked for into a filter, so that nothing of it is part of the filter's own grammar.
func filled(filter, name, dn string) string {
	return strings.NewReplacer("{name}", ldap.EscapeFilter(name), "{dn}", ldap.EscapeFilter(dn)).Replace(filter)
}

func (s *ldapSession) search(base string, scope, limit int, filter string, attributes ...string) ([]*ldap.Entry, error) {
	// Referrals are not followed: they would take the password to where somebody else says.
	found, err := s.conn.Search(ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, s.seconds, false, filter, attributes, nil))
	if err != nil {
		return nil, err
	}
	return found.Entries, nil
}

// find gives the one entry of a name; ErrGone when there is none.
func (s *ldapSession) find(name string) (person, error) {
	nameAttribute := cmp.Or(s.NameAttribute, "uid")
	attributes := append([]string{nameAttribute, "displayName", "cn"}, idAttributes...)
	if s.GroupAttribute != "" {
		attributes = append(attributes, s.GroupAttribute)
	}
	found, err := s.search(s.BaseDN, ldap.ScopeWholeSubtree, 2, filled(s.UserFilter, name, ""), attributes...)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || len(found) > 1:
		return person{}, errAmbiguous
	case err != nil:
		return person{}, fmt.Errorf("search for the user: %w", err)
	case len(found) == 0:
		return person{}, access.ErrGone
	}
	e := found[0]
	p := person{dn: e.DN, id: idOf(e), name: e.GetEqualFoldAttributeValue(nameAttribute),
		fullName: cut(cmp.Or(e.GetEqualFoldAttributeValue("displayName"), e.GetEqualFoldAttributeValue("cn")), 128)}
	if p.dn == "" || p.name == "" {
		return person{}, fmt.Errorf("the entry %q has no attribute %s", p.dn, nameAttribute)
	}
	if s.GroupAttribute != "" {
		p.groups = e.GetEqualFoldAttributeValues(s.GroupAttribute)
	}
	if s.GroupFilter != "" {
		groups, err := s.search(cmp.Or(s.GroupBaseDN, s.BaseDN), ldap.ScopeWholeSubtree, maxGroups, filled(s.GroupFilter, p.name, p.dn), "1.1")
		if err != nil {
			return person{}, fmt.Errorf("search for the groups: %w", err)
		}
		for _, g := range groups {
			p.groups = append(p.groups, g.DN)
		}
	}
	return p, nil
}

// idOf gives what names the entry for good. Where a directory has nothing of the kind, that is its distinguished name.
func idOf(e *ldap.Entry) string {
	for _, name := range idAttributes {
		if raw := e.GetEqualFoldRawAttributeValue(name); len(raw) > 0 {
			if name == "objectGUID" {
				return "objectGUID:" + hex.EncodeToString(raw)
			}
			return name + ":" + strings.ToLower(string(raw))
		}
	}
	return "dn:" + strings.ToLower(e.DN)
}

func cut(text string, characters int) string {
	if r := []rune(text); len(r) > characters {
		return string(r[:characters])
	}
	return text
}

// refusals are answers to a sign-in that are about who signs in, and not about the directory.
var refusals = []uint16{ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultUnwillingToPerform,
	ldap.LDAPResultConstraintViolation, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultNoSuchObject}

// prove tries the password; ErrWrong when the directory refuses it.
func (s *ldapSession) prove(p person, password api.Secret) error {
	err := s.conn.Bind(p.dn, password.Reveal())
	switch {
	case err == nil:
		return nil
	case ldap.IsErrorAnyOf(err, refusals...):
		return access.ErrWrong
	}
	return fmt.Errorf("try the password: %w", err)
}
