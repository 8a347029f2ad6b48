package directory

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"understudy/api"
	"understudy/api/server"
	"understudy/appliance/access"
)

// keepProvider is how long is believed what a provider said of itself, its keys included.
const keepProvider = time.Hour

// provider is one that was asked what it is.
type provider struct {
	*oidc.Provider
	settings api.OIDCSettings
	asked    time.Time
	// saysIssuer: its answers name it (RFC 9207).
	saysIssuer bool
}

func failed(reason string, err error) error { return &server.LoginError{Reason: reason, Err: err} }

// discover gives the provider, and asks it what it is where that is not known.
func (d *Directory) discover(ctx context.Context) (*provider, error) {
	o := d.settings.Load().OIDC
	if o == nil || !o.Enabled {
		return nil, failed(api.SignInNotOffered, errors.New("no provider is set up"))
	}
	if p := d.provider.Load(); p != nil && d.Clock().Sub(p.asked) < keepProvider {
		return p, nil
	}
	p, err := d.ask(ctx, *o)
	if err != nil {
		return nil, failed(api.SignInUnreachable, err)
	}
	d.provider.Store(p)
	return p, nil
}

// ask reads the provider's own description. It must name the very issuer that was set, and addresses that are sealed.
func (d *Directory) ask(ctx context.Context, o api.OIDCSettings) (*provider, error) {
	asked, err := oidc.NewProvider(oidc.ClientContext(ctx, d.web(o)), o.Issuer)
	if err != nil {
		return nil, err
	}
	var more struct {
		JWKS       string   `json:"jwks_uri"`
		SaysIssuer bool     `json:"authorization_response_iss_parameter_supported"`
		PKCE       []string `json:"code_challenge_methods_supported"`
	}
	if err := asked.Claims(&more); err != nil {
		return nil, err
	}
	e := asked.Endpoint()
	for _, address := range []string{e.AuthURL, e.TokenURL, more.JWKS, cmp.Or(asked.UserInfoEndpoint(), e.TokenURL)} {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "https" && strings.HasPrefix(o.Issuer, "https:") {
			return nil, fmt.Errorf("it names the address %q, which is missing or not sealed", address)
		}
	}
	if len(more.PKCE) > 0 && !slices.Contains(more.PKCE, "S256") {
		return nil, errors.New("it does not know PKCE with S256")
	}
	return &provider{Provider: asked, settings: o, asked: d.Clock(), saysIssuer: more.SaysIssuer}, nil
}

func (d *Directory) config(p *provider) (*oauth2.Config, error) {
	o := p.settings
	scopes := o.Scopes
	if len(scopes) == 0 {
		scopes = []string{"profile", "email"}
	}
	c := &oauth2.Config{ClientID: o.ClientID, Endpoint: p.Endpoint(), RedirectURL: o.Redirect(),
		Scopes: append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == oidc.ScopeOpenID })...)}
	if o.ClientSecretSet {
		secret, err := d.Secrets.Get(secretOIDC)
		if err != nil {
			return nil, failed(api.SignInNotAvailable, err)
		}
		c.ClientSecret = secret.Reveal()
	}
	return c, nil
}

// BeginLogin implements server.SignIn.
func (d *Directory) BeginLogin(ctx context.Context) (server.Departure, error) {
	ctx, done, err := d.turn(ctx)
	if err != nil {
		return server.Departure{}, failed(api.SignInNotAvailable, err)
	}
	defer done()
	p, err := d.discover(ctx)
	if err != nil {
		return server.Departure{}, err
	}
	c, err := d.config(p)
	if err != nil {
		return server.Departure{}, err
	}
	j := journey{State: chance(), Nonce: chance(), Verifier: oauth2.GenerateVerifier(), Until: d.Clock().Add(server.LoginTime), Issuer: p.settings.Issuer}
	return server.Departure{Address: c.AuthCodeURL(j.State, oidc.Nonce(j.Nonce), oauth2.S256ChallengeOption(j.Verifier)), Cookie: d.seal(j)}, nil
}

// EndLogin implements server.SignIn.
func (d *Directory) EndLogin(ctx context.Context, back server.Return, address string) (api.Opened, error) {
	j, err := d.open(back.Cookie)
	if err != nil {
		return api.Opened{}, failed(api.SignInExpired, err)
	}
	switch now := d.Clock(); {
	case subtle.ConstantTimeCompare([]byte(back.State), []byte(j.State)) != 1:
		return api.Opened{}, failed(api.SignInExpired, errors.New("another sign-in was begun in this browser, or somebody else's is brought back"))
	case now.After(j.Until):
		return api.Opened{}, failed(api.SignInExpired, errors.New("it took too long"))
	case !d.spent.use(j.State, j.Until, now):
		return api.Opened{}, failed(api.SignInExpired, errors.New("it comes twice"))
	}
	ctx, done, err := d.turn(ctx)
	if err != nil {
		return api.Opened{}, failed(api.SignInNotAvailable, err)
	}
	defer done()
	identity, err := d.identify(ctx, j, back)
	if err != nil {
		return api.Opened{}, err
	}
	opened, err := d.People.SignInIdentity(ctx, identity, address)
	switch {
	case err == nil:
		return opened, nil
	case errors.Is(err, access.ErrDisabled):
		return opened, failed(api.SignInDisabled, err)
	case errors.Is(err, access.ErrWrong):
		return opened, failed(api.SignInNotOffered, err)
	case api.CodeOf(err) == api.CodeConflict:
		return opened, failed(api.SignInNameTaken, err)
	case api.CodeOf(err) == api.CodeInvalid:
		return opened, failed(api.SignInFailed, err)
	}
	return opened, failed(api.SignInNotAvailable, err)
}

// identify finds out who came back.
func (d *Directory) identify(ctx context.Context, j journey, back server.Return) (access.Identity, error) {
	p, err := d.discover(ctx)
	switch {
	case err != nil:
		return access.Identity{}, err
	case p.settings.Issuer != j.Issuer:
		return access.Identity{}, failed(api.SignInExpired, errors.New("the provider was changed meanwhile"))
	case back.Issuer != p.settings.Issuer && (back.Issuer != "" || p.saysIssuer):
		return access.Identity{}, failed(api.SignInFailed, fmt.Errorf("the answer is of issuer %.100q", back.Issuer))
	case back.Error != "":
		return access.Identity{}, failed(api.SignInCancelled, fmt.Errorf("the provider says %.100q", back.Error))
	}
	claims, err := d.claims(ctx, p, j, back.Code)
	if err != nil {
		return access.Identity{}, err
	}
	o := p.settings
	name, err := claims.name(o.NameClaim)
	if err != nil {
		return access.Identity{}, failed(api.SignInFailed, err)
	}
	fullName, _ := claims["name"].(string)
	subject, _ := claims["sub"].(string)
	// The subject is unique at its issuer only.
	i := access.Identity{Source: sourceOIDC, Subject: o.Issuer + " " + subject, Name: name, FullName: cut(fullName, 128)}
	var ok bool
	if i.Role, i.Groups, ok = mapped(o.Roles, claims.texts(o.RoleClaim), same); !ok {
		return i, failed(api.SignInNoRole, errors.Join(fmt.Errorf("no value of %s of %s has a role", o.RoleClaim, name), d.People.Withdraw(i.Source, i.Subject)))
	}
	return i, nil
}

// claims fetches what the provider says of somebody, and checks all of it: the signature, who says it, to whom and when,
// and that it belongs to this sign-in.
func (d *Directory) claims(ctx context.Context, p *provider, j journey, code string) (claims, error) {
	config, err := d.config(p)
	if err != nil {
		return nil, err
	}
	ctx = oidc.ClientContext(ctx, d.web(p.settings))
	token, err := config.Exchange(ctx, code, oauth2.VerifierOption(j.Verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) { // its text has the whole answer
			return nil, failed(api.SignInFailed, fmt.Errorf("the provider refuses the code: %d %.100q", refused.Response.StatusCode, refused.ErrorCode))
		}
		return nil, failed(api.SignInUnreachable, err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := p.Verifier(&oidc.Config{ClientID: config.ClientID, Now: d.Clock}).Verify(ctx, raw)
	if err != nil {
		return nil, failed(api.SignInFailed, err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(j.Nonce)) != 1 {
		return nil, failed(api.SignInFailed, errors.New("the token is of another sign-in: its nonce is wrong"))
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, failed(api.SignInFailed, err)
		}
	}
	all := claims{}
	if err := id.Claims(&all); err != nil {
		return nil, failed(api.SignInFailed, err)
	}
	if party, there := all["azp"]; there && party != config.ClientID || !there && len(id.Audience) > 1 || id.Subject == "" {
		return nil, failed(api.SignInFailed, errors.New("the token is for somebody else, or of nobody"))
	}
	o := p.settings
	if _, err := all.name(o.NameClaim); (err != nil || all.at(o.RoleClaim) == nil) && p.UserInfoEndpoint() != "" {
		if err := all.add(ctx, p, token); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// claims are what a provider says of somebody.
type claims map[string]any

// add asks for what the token itself does not say; what it does say stays.
func (c claims) add(ctx context.Context, p *provider, token *oauth2.Token) error {
	info, err := p.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return failed(api.SignInFailed, fmt.Errorf("ask for more about the user: %w", err))
	}
	if info.Subject != c["sub"] {
		return failed(api.SignInFailed, errors.New("the provider speaks of somebody else"))
	}
	more := claims{}
	if err := info.Claims(&more); err != nil {
		return failed(api.SignInFailed, err)
	}
	for name, value := range more {
		if _, there := c[name]; !there {
			c[name] = value
		}
	}
	return nil
}

// name gives what somebody is called here.
func (c claims) name(claim string) (string, error) {
	if name, _ := c.at(cmp.Or(claim, "preferred_username")).(string); name != "" {
		return name, nil
	}
	if email, _ := c["email"].(string); claim == "" && email != "" && c["email_verified"] == true {
		return email, nil
	}
	return "", fmt.Errorf("the provider does not say the name of the user (%s)", cmp.Or(claim, "preferred_username, or email if it is verified"))
}

// at gives a claim by its name, or by names with dots between that lead into objects.
func (c claims) at(name string) any {
	if v, there := c[name]; there {
		return v
	}
	first, rest, deeper := strings.Cut(name, ".")
	inner, ok := c[first].(map[string]any)
	if !deeper || !ok {
		return nil
	}
	return claims(inner).at(rest)
}

// texts gives a claim that is a text or a list of texts. Anything else gives none: a role must not come from a guess.
func (c claims) texts(name string) []string {
	switch v := c.at(name).(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, one := range v {
			if text, ok := one.(string); ok {
				all = append(all, text)
			}
		}
		return all
	}
	return nil
}

// UnmarshalJSON reads an object; null gives none.
func (c *claims) UnmarshalJSON(b []byte) error {
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*c = m
	if m == nil {
		*c = claims{}
	}
	return nil
}
