package client

import (
	"context"

	"understudy/api"
)

var _ api.SignIn = (*Client)(nil)

// signInClear lets the secrets of settings travel: the connection is sealed, or leads to this machine only. Lists that are
// missing are empty.
func signInClear(s api.SignInSettings) api.SignInSettings {
	if s.LDAP != nil {
		part := *s.LDAP
		part.BindPassword, part.Roles = part.BindPassword.InClear(), append([]api.RoleMapping{}, part.Roles...)
		s.LDAP = &part
	}
	if s.OIDC != nil {
		part := *s.OIDC
		part.ClientSecret, part.Roles = part.ClientSecret.InClear(), append([]api.RoleMapping{}, part.Roles...)
		s.OIDC = &part
	}
	return s
}

// SignInSettings implements api.SignIn.
func (c *Client) SignInSettings(ctx context.Context) (api.SignInSettings, error) {
	return get[api.SignInSettings](ctx, c, path("settings", "sign-in"))
}

// SetSignInSettings implements api.SignIn.
func (c *Client) SetSignInSettings(ctx context.Context, revision int64, s api.SignInSettings) (api.SignInSettings, error) {
	return put[api.SignInSettings](ctx, c, revision, signInClear(s), "settings", "sign-in")
}

// TestSignIn implements api.SignIn.
func (c *Client) TestSignIn(ctx context.Context, trial api.SignInTrial) (api.SignInTest, error) {
	trial.Settings = signInClear(trial.Settings)
	return post[api.SignInTest](ctx, c, path("settings", "sign-in", "test"), trial)
}
