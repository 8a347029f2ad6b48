package directory

import (
	"errors"
	"strings"

	"understudy/api"
)

// takeLDAP and takeOIDC take the secrets out of settings: what is kept and shown has none.
func takeLDAP(s *api.SignInSettings) (given api.Secret) {
	if s.LDAP != nil {
		given, s.LDAP.BindPassword, s.LDAP.BindPasswordSet = s.LDAP.BindPassword, api.Secret{}, false
	}
	return given
}

func takeOIDC(s *api.SignInSettings) (given api.Secret) {
	if s.OIDC != nil {
		given, s.OIDC.ClientSecret, s.OIDC.ClientSecretSet, s.OIDC.RedirectURL = s.OIDC.ClientSecret, api.Secret{}, false, ""
	}
	return given
}

// keepOrAsk marks the secrets that the new settings have: those that were given, and those that stay. One that would now
// travel elsewhere than where it was given for does not stay: whoever changes an address does not learn the password.
func keepOrAsk(before api.SignInSettings, s *api.SignInSettings, given map[string]api.Secret) error {
	ask := func(field string) error {
		return &api.Error{Code: api.CodeInvalid, Field: field, Message: "it leads elsewhere now, and so the secret that is kept does not go there",
			Hint: "Give the secret again."}
	}
	if l, old := s.LDAP, before.LDAP; l != nil && l.BindDN != "" {
		switch kept := old != nil && old.BindPasswordSet; {
		case !given[secretLDAP].IsZero():
		case !kept:
			return &api.Error{Code: api.CodeInvalid, Field: "ldap.bindPassword", Message: "the account that searches has no password",
				Hint: "Give its password; without one, directories take everybody for nobody."}
		case old.URL != l.URL || old.StartTLS != l.StartTLS || old.CA != l.CA || !strings.EqualFold(old.BindDN, l.BindDN):
			return ask("ldap.bindPassword")
		}
		l.BindPasswordSet = true
	}
	if o, old := s.OIDC, before.OIDC; o != nil {
		kept := old != nil && old.ClientSecretSet
		if kept && given[secretOIDC].IsZero() && (old.Issuer != o.Issuer || old.CA != o.CA || old.ClientID != o.ClientID) {
			return ask("oidc.clientSecret")
		}
		o.ClientSecretSet = kept || !given[secretOIDC].IsZero() // a public client has none
	}
	return nil
}

// putSecrets keeps the secrets that were given. undo brings the old ones back.
func (d *Directory) putSecrets(given map[string]api.Secret) (undo func() error, err error) {
	var undos []func() error
	undo = func() error {
		var errs []error
		for _, u := range undos {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for name, secret := range given {
		if secret.IsZero() {
			continue
		}
		old, oldErr := d.Secrets.Get(name)
		if err := d.Secrets.Put(name, secret); err != nil {
			return undo, err
		}
		undos = append(undos, func() error {
			if oldErr != nil {
				return d.Secrets.Delete(name)
			}
			return d.Secrets.Put(name, old)
		})
	}
	return undo, nil
}

// forget deletes the secrets that the settings do not have. One that stays behind is sealed, and does no harm.
func (d *Directory) forget(s api.SignInSettings) {
	for name, has := range map[string]bool{secretLDAP: s.LDAP != nil && s.LDAP.BindPasswordSet, secretOIDC: s.OIDC != nil && s.OIDC.ClientSecretSet} {
		if has {
			continue
		}
		if err := d.Secrets.Delete(name); err != nil {
			d.Log.Warn("a secret that is not needed any more stays", "secret", name, "error", err)
		}
	}
}
