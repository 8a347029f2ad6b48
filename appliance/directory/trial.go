package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/oauth2"

	"understudy/api"
	"understudy/appliance/access"
)

// trial gathers what is found.
type trial struct{ api.SignInTest }

// found notes a check, and tells whether it passed. A hint is for one that failed.
func (t *trial) found(part, name string, err error, hint, format string, args ...any) bool {
	c := api.SignInCheck{Part: part, Name: name, Passed: err == nil, Message: fmt.Sprintf(format, args...)}
	if err != nil {
		c.Message, c.Hint = plain(err), hint
		t.Passed = false
	}
	t.Checks = append(t.Checks, c)
	return err == nil
}

// plain says an error in one line.
func plain(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// TestSignIn implements api.SignIn. Only administrators come here, so that it may tell everything.
func (d *Directory) TestSignIn(ctx context.Context, in api.SignInTrial) (api.SignInTest, error) {
	s := cloned(in.Settings)
	if err := validate(s); err != nil {
		return api.SignInTest{}, err
	}
	given := map[string]api.Secret{secretLDAP: takeLDAP(&s), secretOIDC: takeOIDC(&s)}
	if err := keepOrAsk(*d.settings.Load(), &s, given); err != nil {
		return api.SignInTest{}, err
	}
	ctx, done, err := d.turn(ctx)
	if err != nil {
		return api.SignInTest{}, err
	}
	defer done()
	t := &trial{api.SignInTest{Passed: true, Checks: []api.SignInCheck{}}}
	if s.LDAP != nil {
		s.LDAP.BindPassword = given[secretLDAP]
		d.tryLDAP(ctx, t, *s.LDAP, in.Name)
	}
	if s.OIDC != nil {
		d.tryOIDC(ctx, t, *s.OIDC, given[secretOIDC])
	}
	return t.SignInTest, nil
}

func (d *Directory) tryLDAP(ctx context.Context, t *trial, l api.LDAPSettings, name string) {
	bindPassword, err := d.bindPassword(l)
	if err != nil {
		t.found("ldap", "bind", err, "Give the password of the account again.", "")
		return
	}
	session, err := dialLDAP(ctx, l)
	if !t.found("ldap", "connect", err, connectHint(err), "the directory answers, and proves who it is") {
		return
	}
	defer session.close()
	if !t.found("ldap", "bind", session.bind(bindPassword), "Look at the account that searches and its password.", "the account that searches can sign in") {
		return
	}
	_, err = session.search(l.BaseDN, ldap.ScopeBaseObject, 1, "(objectClass=*)", "1.1")
	if !t.found("ldap", "base", err, "Look at baseDN, and whether the account may read there.", "%s can be read", l.BaseDN) || name == "" {
		return
	}
	p, err := session.find(strings.ToLower(strings.TrimSpace(name)))
	if !t.found("ldap", "user", err, "Look at userFilter and nameAttribute.", "%s is %s, known here as %s", name, p.dn, p.name) {
		return
	}
	i, err := p.identity(l)
	t.found("ldap", "groups", err, noneOf(p.groups), "%s would be %s%s", p.name, i.Role, scopeText(i))
}

func noneOf(groups []string) string {
	if len(groups) == 0 {
		return "No group of theirs was found: look at groupAttribute or groupFilter."
	}
	return "Give a role to one of: " + cut(strings.Join(groups, "; "), 1000)
}

func scopeText(i access.Identity) string {
	if len(i.Groups) == 0 {
		return ""
	}
	return fmt.Sprintf(" of %d groups", len(i.Groups))
}

func connectHint(err error) string {
	var network net.Error
	switch {
	case err == nil:
		return ""
	case strings.Contains(err.Error(), "x509") || strings.Contains(err.Error(), "certificate"):
		return "Give the certificate of the authority that issued the server's, and the name that the server has in it."
	case errors.As(err, &network):
		return "Look at the address, the port and firewalls between."
	}
	return "Look whether the server takes encrypted connections in this way."
}

func (d *Directory) tryOIDC(ctx context.Context, t *trial, o api.OIDCSettings, given api.Secret) {
	p, err := d.ask(ctx, o)
	if !t.found("oidc", "discovery", err, connectHint(err), "the provider answers at %s", o.Issuer) {
		return
	}
	secret := given
	if secret.IsZero() && o.ClientSecretSet {
		if secret, err = d.Secrets.Get(secretOIDC); err != nil {
			t.found("oidc", "client", err, "Give the secret of the client again.", "")
			return
		}
	}
	// A code that nobody gave out: most providers look at the client first, and refuse the code only when they know it. Some
	// do so the other way round; whether they take the secret shows at the first sign-in.
	c := oauth2.Config{ClientID: o.ClientID, ClientSecret: secret.Reveal(), Endpoint: p.Endpoint(), RedirectURL: o.Redirect()}
	_, err = c.Exchange(context.WithValue(ctx, oauth2.HTTPClient, d.web(o)), "no-code", oauth2.VerifierOption(oauth2.GenerateVerifier()))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.ErrorCode == "invalid_grant":
		err = nil
	case errors.As(err, &refused):
		err = fmt.Errorf("the provider does not take the client: %d %.100q %.300q", refused.Response.StatusCode, refused.ErrorCode, refused.ErrorDescription)
	}
	t.found("oidc", "client", err, "Look at the id and the secret of the client, and whether it may use the authorization code flow with the redirect address "+o.Redirect()+".",
		"the provider has nothing against the client, as far as it says without a sign-in; it must send people back to %s", o.Redirect())
}
