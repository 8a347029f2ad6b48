package api

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// SignIn is how people get in beside accounts of the appliance's own, which always remain.
type SignIn interface {
	SignInSettings(ctx context.Context) (SignInSettings, error)
	// SetSignInSettings takes effect at once; revision must be the one that was read (CodeStale). Whoever signed in by a
	// part that changes signs in again.
	SetSignInSettings(ctx context.Context, revision int64, s SignInSettings) (SignInSettings, error)
	// TestSignIn tries settings that need not be saved.
	TestSignIn(ctx context.Context, trial SignInTrial) (SignInTest, error)
}

// SignInSettings say how people sign in.
type SignInSettings struct {
	Revision       int64         `json:"revision" doc:"For If-Match"`
	SessionMinutes int           `json:"sessionMinutes" minimum:"5" maximum:"720" doc:"How long a session lasts in which nothing happens; none lasts longer than 12 hours"`
	LDAP           *LDAPSettings `json:"ldap,omitempty" doc:"A directory that proves names and passwords"`
	OIDC           *OIDCSettings `json:"oidc,omitempty" doc:"A provider of OpenID Connect, at whose page people sign in"`
}

// LDAPSettings describe a directory: it is searched for the user by the account of the appliance, then the user's own
// password is tried with what was found.
type LDAPSettings struct {
	Enabled         bool   `json:"enabled"`
	URL             string `json:"url" minLength:"1" maxLength:"2048" example:"ldaps://dc.example.com" doc:"ldaps, or ldap with startTLS"`
	StartTLS        bool   `json:"startTLS,omitempty" doc:"Demanded, never merely tried; for ldap"`
	CA              string `json:"ca,omitempty" maxLength:"65536" doc:"PEM certificates to trust instead of the system's"`
	BindDN          string `json:"bindDN,omitempty" maxLength:"1024" doc:"Account that may search; empty: anybody may"`
	BindPassword    Secret `json:"bindPassword,omitzero" writeOnly:"true" format:"password" maxLength:"1024" doc:"Left out: as before"`
	BindPasswordSet bool   `json:"bindPasswordSet,omitempty" readOnly:"true"`
	BaseDN          string `json:"baseDN" minLength:"1" maxLength:"1024" example:"ou=people,dc=example,dc=com" doc:"Below which people are"`
	UserFilter      string `json:"userFilter" minLength:"1" maxLength:"1024" example:"(&(objectClass=person)(uid={name}))" doc:"Must find one entry alone; {name} is what the user typed, escaped"`
	NameAttribute   string `json:"nameAttribute,omitempty" maxLength:"64" example:"sAMAccountName" doc:"Of the name that the user has here; empty means uid"`
	// GroupAttribute and GroupFilter find groups; with neither, nobody is in any.
	GroupAttribute string        `json:"groupAttribute,omitempty" maxLength:"64" example:"memberOf" doc:"Of the user, with groups as values"`
	GroupBaseDN    string        `json:"groupBaseDN,omitempty" maxLength:"1024" doc:"Below which groups are; empty means baseDN"`
	GroupFilter    string        `json:"groupFilter,omitempty" maxLength:"1024" example:"(member={dn})" doc:"Finds the groups of a user by {dn} or {name}, for directories without such an attribute"`
	Roles          []RoleMapping `json:"roles" maxItems:"500" nullable:"false" doc:"By the distinguished names of groups, or the values of groupAttribute. The highest role wins; who has none stays out"`
}

// OIDCSettings describe a provider.
type OIDCSettings struct {
	Enabled         bool     `json:"enabled"`
	Name            string   `json:"name" minLength:"1" maxLength:"64" doc:"For the button of the sign-in page"`
	Issuer          string   `json:"issuer" minLength:"1" maxLength:"2048" example:"https://id.example.com/realms/main" doc:"Exactly as the provider writes it. https; plain http for loopback addresses only"`
	CA              string   `json:"ca,omitempty" maxLength:"65536" doc:"PEM certificates to trust instead of the system's"`
	ClientID        string   `json:"clientId" minLength:"1" maxLength:"256"`
	ClientSecret    Secret   `json:"clientSecret,omitzero" writeOnly:"true" format:"password" maxLength:"1024" doc:"Left out: as before"`
	ClientSecretSet bool     `json:"clientSecretSet,omitempty" readOnly:"true"`
	ConsoleURL      string   `json:"consoleUrl" minLength:"1" maxLength:"2048" example:"https://dr.example.com:8443" doc:"Address by which people reach the console"`
	RedirectURL     string   `json:"redirectUrl,omitempty" readOnly:"true" doc:"What the provider must be told to send people back to"`
	Scopes          []string `json:"scopes,omitempty" maxItems:"30" doc:"Asked for beside openid; empty means profile and email"`
	NameClaim       string   `json:"nameClaim,omitempty" maxLength:"128" doc:"Claim with the name that the user has here; empty means preferred_username"`
	RoleClaim       string   `json:"roleClaim" minLength:"1" maxLength:"128" example:"groups" doc:"Claim with the groups or roles: a text or a list of texts; dots lead into objects"`
	// Roles are by value of the claim.
	Roles []RoleMapping `json:"roles" maxItems:"500" nullable:"false" doc:"By the values of roleClaim. The highest role wins; who has none stays out"`
}

// RoleMapping gives a role to whoever is in a group elsewhere.
type RoleMapping struct {
	Value  string   `json:"value" minLength:"1" maxLength:"1024" doc:"The group; capitals do not matter in distinguished names"`
	Role   Role     `json:"role" enum:"viewer,operator,administrator"`
	Groups []string `json:"groups,omitempty" maxItems:"1000" doc:"Ids of the protection groups that they see; empty means all, which administrators need"`
}

// SignInTrial are settings to be tried; secrets that are left out are those that are kept.
type SignInTrial struct {
	Settings SignInSettings `json:"settings"`
	Name     string         `json:"name,omitempty" maxLength:"256" doc:"Of somebody to look up in the directory, without a password"`
}

// SignInTest tells what a trial found.
type SignInTest struct {
	Passed bool          `json:"passed"`
	Checks []SignInCheck `json:"checks" nullable:"false"`
}

// SignInCheck is one thing that works, or does not.
type SignInCheck struct {
	Part    string `json:"part" enum:"ldap,oidc"`
	Name    string `json:"name" doc:"connect, bind, base, user, groups; discovery, client"`
	Passed  bool   `json:"passed"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Why a sign-in at a provider did not let somebody in. The sign-in page is opened with one of them as ?sign-in=.
const (
	SignInExpired      = "expired"       // it took too long, was begun in another browser, or came twice
	SignInCancelled    = "cancelled"     // the provider did not let the person in
	SignInUnreachable  = "unreachable"   // the provider does not answer
	SignInFailed       = "failed"        // what the provider said is not to be trusted; the appliance's log says why
	SignInNoRole       = "no-role"       // no mapping gives a role
	SignInNameTaken    = "name-taken"    // the name belongs to somebody else here
	SignInDisabled     = "disabled"      // the user is disabled here
	SignInNotOffered   = "not-offered"   // there is no provider
	SignInNotAvailable = "not-available" // the appliance itself fails
)

// CallbackPath is where a provider sends people back to.
const CallbackPath = "/api/v1/oidc/callback"

const (
	minSessionMinutes = 5
	maxSessionMinutes = 720
	maxMappings       = 500
)

// Validate checks what the schema cannot say; see GroupSpec.Validate. Secrets that are missing may have been kept from
// before: the appliance looks at them.
func (s SignInSettings) Validate() error {
	if s.SessionMinutes < minSessionMinutes || s.SessionMinutes > maxSessionMinutes {
		return invalid("sessionMinutes", "Use 5 to 720.", "a session cannot last %d minutes", s.SessionMinutes)
	}
	if s.LDAP != nil {
		if err := s.LDAP.validate(); err != nil {
			return err
		}
	}
	if s.OIDC != nil {
		return s.OIDC.validate()
	}
	return nil
}

var attributeName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{0,63}$`)

func (l LDAPSettings) validate() error {
	u, err := url.Parse(l.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return invalid("ldap.url", "Write it as ldaps://dc.example.com.", "this is no address of a directory")
	case u.Scheme != "ldaps" && u.Scheme != "ldap":
		return invalid("ldap.url", "Use ldaps, or ldap with StartTLS.", "%q is not the scheme of a directory", u.Scheme)
	case u.Scheme == "ldap" && !l.StartTLS:
		return invalid("ldap.startTLS", "Use ldaps, or ldap with StartTLS.", "passwords must not be sent in the clear")
	case u.Scheme == "ldaps" && l.StartTLS:
		return invalid("ldap.startTLS", "Leave StartTLS out, or use ldap.", "ldaps is encrypted from the beginning")
	case l.BindDN == "" && !l.BindPassword.IsZero():
		return invalid("ldap.bindDN", "Name the account, or leave the password out.", "there is a password but no account")
	case l.BaseDN == "":
		return invalid("ldap.baseDN", "Write it as ou=people,dc=example,dc=com.", "it is not said below which entry people are")
	case !strings.Contains(l.UserFilter, "{name}"):
		return invalid("ldap.userFilter", "Write it as (uid={name}).", "the filter does not ask for {name}, so that it would find anybody")
	case l.GroupFilter != "" && !strings.Contains(l.GroupFilter, "{dn}") && !strings.Contains(l.GroupFilter, "{name}"):
		return invalid("ldap.groupFilter", "Write it as (member={dn}).", "the filter asks neither for {dn} nor for {name}, so that everybody would be in all groups")
	case l.Enabled && l.GroupFilter == "" && l.GroupAttribute == "":
		return invalid("ldap.groupAttribute", "Use memberOf, or give a group filter.", "it is not said where the groups of a user are found")
	}
	for field, name := range map[string]string{"ldap.nameAttribute": l.NameAttribute, "ldap.groupAttribute": l.GroupAttribute} {
		if name != "" && !attributeName.MatchString(name) {
			return invalid(field, "Give one name of an attribute.", "%q is no attribute", name)
		}
	}
	if err := validateAuthority("ldap.url", u); err != nil {
		return err
	}
	if err := validateCA("ldap.ca", l.CA); err != nil {
		return err
	}
	return validateMappings("ldap.roles", l.Roles, l.Enabled)
}

func (o OIDCSettings) validate() error {
	if strings.TrimSpace(o.Name) == "" || len(o.Name) > 64 {
		return invalid("oidc.name", "Say what people know it as, in at most 64 characters.", "the provider has no name")
	}
	if err := validateWebAddress("oidc.issuer", o.Issuer); err != nil {
		return err
	}
	if err := validateWebAddress("oidc.consoleUrl", o.ConsoleURL); err != nil {
		return err
	}
	switch u, _ := url.Parse(o.ConsoleURL); {
	case strings.Trim(u.Path, "/") != "":
		return invalid("oidc.consoleUrl", "Write it as https://dr.example.com:8443.", "the console has no path")
	case o.ClientID == "":
		return invalid("oidc.clientId", "Register the appliance at the provider.", "the client has no id")
	case o.RoleClaim == "":
		return invalid("oidc.roleClaim", "Name a claim such as groups.", "it is not said where the groups of a user are found")
	}
	for i, scope := range o.Scopes {
		if scope == "" || len(scope) > 128 || !isPrintable(scope) || strings.ContainsAny(scope, ` "\`) {
			return invalid(fmt.Sprintf("oidc.scopes[%d]", i), "Use names such as profile, one by one.", "%q is no scope", scope)
		}
	}
	if err := validateCA("oidc.ca", o.CA); err != nil {
		return err
	}
	return validateMappings("oidc.roles", o.Roles, o.Enabled)
}

func validateWebAddress(field, text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return invalid(field, "Write it as https://id.example.com.", "this is no address")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return invalid(field, "Use https.", "what is secret must not be sent in the clear")
	}
	return validateAuthority(field, u)
}

func validateAuthority(field string, u *url.URL) error {
	if u.Port() != "" && !isPort(u.Port()) {
		return invalid(field, "Use 1 to 65535.", "%q is no port", u.Port())
	}
	return validateHost(field, u.Hostname())
}

func validateMappings(field string, roles []RoleMapping, enabled bool) error {
	switch {
	case enabled && len(roles) == 0:
		return invalid(field, "Give a role to at least one group.", "nobody could sign in")
	case len(roles) > maxMappings:
		return invalid(field, "Use fewer, larger groups.", "%d mappings are more than %d", len(roles), maxMappings)
	}
	for i, r := range roles {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case strings.TrimSpace(r.Value) == "":
			return invalid(at+".value", "Name a group.", "the mapping names no group")
		case slices.ContainsFunc(roles[:i], func(other RoleMapping) bool { return strings.EqualFold(other.Value, r.Value) }):
			return invalid(at+".value", "Name each group once.", "%q has a role already", r.Value)
		case !r.Role.Includes(RoleViewer):
			return invalid(at+".role", "Use viewer, operator or administrator.", "there is no role %q", r.Role)
		case r.Role == RoleAdministrator && len(r.Groups) > 0:
			return invalid(at+".groups", "Leave the groups out, or choose another role.", "an administrator sees everything")
		}
		for j, g := range r.Groups {
			if g == "" || len(g) > 128 || slices.Contains(r.Groups[:j], g) {
				return invalid(fmt.Sprintf("%s.groups[%d]", at, j), "Give each group once.", "%q is no group, or was named before", g)
			}
		}
	}
	return nil
}

// Redirect is where the provider sends people back to.
func (o OIDCSettings) Redirect() string { return strings.TrimRight(o.ConsoleURL, "/") + CallbackPath }
