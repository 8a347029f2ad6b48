package access

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// answering is a directory that says the same to everybody.
type answering struct {
	identity Identity
	err      error
}

func (d *answering) Check(context.Context, string, api.Secret) (Identity, error) {
	return d.identity, d.err
}

func newDirectoryWorld(t *testing.T) (*world, *answering) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	d := &answering{identity: Identity{Source: "ldap", Subject: "uuid-1", Name: "carl", Role: api.RoleAdministrator}}
	w.SetDirectory(d)
	return w, d
}

func TestWhoIsGoneLosesWhatIsOpen(t *testing.T) {
	for name, gone := range map[string]error{"gone": ErrGone, "no role": ErrNoRole} {
		t.Run(name, func(t *testing.T) {
			w, d := newDirectoryWorld(t)
			cookie, err := w.tryFrom("carl", other, home)
			require.NoError(t, err)
			made, err := w.CreateToken(t.Context(), api.TokenSpec{Name: "x", Expires: w.clock().Add(time.Hour), By: w.principal(cookie)})
			require.NoError(t, err)

			d.err = ErrWrong // somebody guesses
			_, err = w.tryFrom("carl", other, away)
			require.ErrorIs(t, err, ErrWrong)
			w.principal(cookie)
			_, err = w.Bearer(made.Shown.Reveal())
			require.NoError(t, err)

			d.err = gone
			_, err = w.tryFrom("carl", other, home)
			require.Error(t, err)
			_, err = w.Session(cookie, true)
			require.Equal(t, api.CodeUnauthorized, code(err))
			_, err = w.Bearer(made.Shown.Reveal())
			require.Equal(t, api.CodeUnauthorized, code(err))
			w.restart()
			w.SetDirectory(d)
			_, err = w.Bearer(made.Shown.Reveal())
			require.Equal(t, api.CodeUnauthorized, code(err), "for good")

			d.err = nil
			_, err = w.tryFrom("carl", other, home)
			require.NoError(t, err)
			_, err = w.Bearer(made.Shown.Reveal())
			require.NoError(t, err, "until the directory knows them again")
		})
	}
}

// Nobody notices that a directory has lost somebody who never signs in again.
func TestTokensOfADirectoryDoNotOutliveTrust(t *testing.T) {
	w, _ := newDirectoryWorld(t)
	cookie, err := w.tryFrom("carl", other, home)
	require.NoError(t, err)
	carls, err := w.CreateToken(t.Context(), api.TokenSpec{Name: "x", Expires: w.clock().Add(300 * 24 * time.Hour), By: w.principal(cookie)})
	require.NoError(t, err)
	adas, err := w.CreateToken(t.Context(), api.TokenSpec{Name: "x", Expires: w.clock().Add(300 * 24 * time.Hour), By: w.principal(w.signIn("ada"))})
	require.NoError(t, err)
	w.pass(trust)
	_, err = w.Bearer(carls.Shown.Reveal())
	require.NoError(t, err)
	w.pass(time.Second)
	_, err = w.Bearer(carls.Shown.Reveal())
	require.Equal(t, api.CodeUnauthorized, code(err))
	_, err = w.Bearer(adas.Shown.Reveal())
	require.NoError(t, err, "those of local users do")
}

func TestNothingOfADirectoryThatIsTakenAwayLetsIn(t *testing.T) {
	w, d := newDirectoryWorld(t)
	cookie, err := w.tryFrom("carl", other, home)
	require.NoError(t, err)
	_, err = w.SignInIdentity(t.Context(), Identity{Source: "oidc", Subject: "s", Name: "olga", Role: api.RoleViewer}, home)
	require.ErrorIs(t, err, ErrWrong, "there is no provider")
	w.SetDirectory(nil)
	_, err = w.Session(cookie, true)
	require.Equal(t, api.CodeUnauthorized, code(err))
	w.SetDirectory(d)
	w.principal(cookie)
	adas := w.signIn("ada")
	require.NoError(t, w.EndSource("ldap"))
	_, err = w.Session(cookie, true)
	require.Equal(t, api.CodeUnauthorized, code(err))
	w.principal(adas)
}

// In the worst night no directory answers.
func TestTheLastLocalAdministratorStays(t *testing.T) {
	w, _ := newDirectoryWorld(t)
	_, err := w.tryFrom("carl", other, home)
	require.NoError(t, err)
	ada, err := w.GetUser(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, api.CodeConflict, code(w.DeleteUser(t.Context(), "ada")))
	_, err = w.UpdateUser(t.Context(), "ada", ada.Revision, api.UserEdit{Role: api.RoleAdministrator, Disabled: true})
	require.Equal(t, api.CodeConflict, code(err))
	require.NoError(t, w.DeleteUser(t.Context(), "carl"))
}

func TestNamesFollowTheDirectory(t *testing.T) {
	w, d := newDirectoryWorld(t)
	_, err := w.tryFrom("carl", other, home)
	require.NoError(t, err)
	d.identity.Name = "ada"
	opened, err := w.SignIn(t.Context(), api.Credentials{Name: "carl", Password: api.NewSecret(other)}, home)
	require.NoError(t, err)
	require.Equal(t, "carl", opened.User.Name, "ada is somebody else")
	d.identity.Name = "Carla"
	opened, err = w.SignIn(t.Context(), api.Credentials{Name: "carla", Password: api.NewSecret(other)}, home)
	require.NoError(t, err)
	require.Equal(t, "carla", opened.User.Name)
	d.identity = Identity{Source: "ldap", Subject: "uuid-2", Name: "carla", Role: api.RoleViewer}
	_, err = w.tryFrom("carla", other, home)
	require.Equal(t, api.CodeConflict, code(err), "a name that was somebody's is not the same person")
}
