package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) signIn() *cobra.Command {
	return family("sign-in", "Let people sign in by a directory (LDAP) or a provider (OpenID Connect)",
		a.command("show", "Show how people sign in", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			s, err := c.SignInSettings(ctx)
			if err != nil {
				return err
			}
			return a.showSignIn(s)
		}),
		a.signInSet(), a.signInTest())
}

const signInLong = `. The settings are JSON, as the API takes it, from a file or standard input, so that
passwords never stand on a command line. A part that is left out is gone; a secret that is left out stays:

  {"sessionMinutes": 30,
   "ldap": {"enabled": true, "url": "ldaps://dc.example.com", "bindDN": "cn=understudy,dc=example,dc=com", "bindPassword": "...",
     "baseDN": "ou=people,dc=example,dc=com", "userFilter": "(uid={name})", "groupAttribute": "memberOf",
     "roles": [{"value": "cn=admins,ou=groups,dc=example,dc=com", "role": "administrator"}]},
   "oidc": {"enabled": true, "name": "Example", "issuer": "https://id.example.com", "clientId": "understudy", "clientSecret": "...",
     "consoleUrl": "https://dr.example.com:8443", "roleClaim": "groups",
     "roles": [{"value": "operators", "role": "operator", "groups": ["web"]}]}}

For Active Directory: "userFilter": "(&(objectClass=user)(sAMAccountName={name}))", "nameAttribute": "sAMAccountName".`

func (a *app) signInSet() *cobra.Command {
	const short = "Change how people sign in"
	var file string
	var minutes int
	var cmd *cobra.Command
	cmd = a.command("set", short, 0, func(ctx context.Context, c *client.Client, _ []string) error {
		s, err := c.SignInSettings(ctx)
		if err != nil {
			return err
		}
		revision, given := s.Revision, cmd.Flags().Changed("session-minutes")
		if file == "" && !given {
			return wrong("name the file with the settings: --file sign-in.json, or --file - for standard input; or give --session-minutes")
		}
		if file != "" {
			s = api.SignInSettings{SessionMinutes: s.SessionMinutes}
			if err := readJSON("settings", file, a.in, &s); err != nil {
				return err
			}
		}
		if given {
			s.SessionMinutes = minutes
		}
		if err := s.Validate(); err != nil {
			return err
		}
		if s, err = c.SetSignInSettings(ctx, revision, s); err != nil {
			return err
		}
		return a.showSignIn(s)
	})
	cmd.Long = short + signInLong
	cmd.Example = `  understudy sign-in set -f sign-in.json
  understudy sign-in set --session-minutes 15`
	cmd.Flags().StringVarP(&file, "file", "f", "", "settings in JSON; - reads standard input")
	cmd.Flags().IntVar(&minutes, "session-minutes", 0, "how long a session lasts in which nothing happens")
	return cmd
}

func (a *app) signInTest() *cobra.Command {
	const short = "Try a directory and a provider, and tell what is missing"
	var file, name string
	cmd := a.command("test", short, 0, func(ctx context.Context, c *client.Client, _ []string) error {
		s, err := c.SignInSettings(ctx)
		if err != nil {
			return err
		}
		if file != "" {
			s = api.SignInSettings{SessionMinutes: s.SessionMinutes}
			if err := readJSON("settings", file, a.in, &s); err != nil {
				return err
			}
		}
		if err := s.Validate(); err != nil {
			return err
		}
		found, err := c.TestSignIn(ctx, api.SignInTrial{Settings: s, Name: name})
		if err != nil {
			return err
		}
		if err := a.show(found, func(w io.Writer) {
			t := newTable(w, "PART", "CHECK", "PASSED", "MESSAGE", "HINT")
			for _, check := range found.Checks {
				t.row(check.Part, check.Name, yesNo(check.Passed), check.Message, orDash(check.Hint))
			}
			t.flush()
		}); err != nil {
			return err
		}
		if !found.Passed {
			return fmt.Errorf("sign-in: a check %w", errFailed)
		}
		return nil
	})
	cmd.Long = short + ": those that are set, or others before they are" + signInLong
	cmd.Flags().StringVarP(&file, "file", "f", "", "settings in JSON; - reads standard input (default: those that are set)")
	cmd.Flags().StringVar(&name, "name", "", "look somebody up in the directory, and tell the role; no password is asked for")
	return cmd
}

func (a *app) showSignIn(s api.SignInSettings) error {
	return a.show(s, func(w io.Writer) {
		pairs := []string{"idle sessions end after", strconv.Itoa(s.SessionMinutes) + " minutes", "local users", "yes"}
		if l := s.LDAP; l != nil {
			pairs = append(pairs, "directory", l.URL, "enabled", yesNo(l.Enabled), "StartTLS", yesNo(l.StartTLS), "account", l.BindDN,
				"password", isSet(l.BindPasswordSet), "people below", l.BaseDN, "filter", l.UserFilter, "name is", l.NameAttribute,
				"groups are", strings.TrimSpace(l.GroupAttribute+" "+l.GroupFilter))
		}
		if o := s.OIDC; o != nil {
			pairs = append(pairs, "provider", o.Name, "enabled", yesNo(o.Enabled), "issuer", o.Issuer, "client", o.ClientID,
				"secret", isSet(o.ClientSecretSet), "people come back to", o.RedirectURL, "name is", o.NameClaim, "groups are", o.RoleClaim)
		}
		facts(w, append(pairs, "revision", strconv.FormatInt(s.Revision, 10))...)
		if s.LDAP == nil && s.OIDC == nil {
			return
		}
		fmt.Fprintln(w)
		t := newTable(w, "BY", "GROUP", "ROLE", "SEES")
		if s.LDAP != nil {
			for _, r := range s.LDAP.Roles {
				t.row("directory", r.Value, r.Role, allOr(r.Groups))
			}
		}
		if s.OIDC != nil {
			for _, r := range s.OIDC.Roles {
				t.row("provider", r.Value, r.Role, allOr(r.Groups))
			}
		}
		t.flush()
	})
}
