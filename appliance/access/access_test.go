package access

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/store"
)

const (
	right = "correct horse battery staple"
	other = "another long enough password"
	home  = "192.0.2.1"
	away  = "203.0.113.9"
)

// world is an appliance that can be started again, with a clock that is moved by hand.
type world struct {
	*Access
	t   *testing.T
	dir string
	db  *store.DB
	mu  sync.Mutex
	now time.Time
	log bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	w.start()
	t.Cleanup(func() { require.NoError(t, w.db.Close()) })
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	w.db, err = store.Open(filepath.Join(w.dir, "state.db"))
	require.NoError(w.t, err)
	w.Access, err = New(Options{Store: w.db, SetupFile: filepath.Join(w.dir, "setup.token"), Clock: w.clock,
		Log: slog.New(slog.NewTextHandler(&w.log, nil)), Cost: Cost{MemoryKiB: 64}})
	require.NoError(w.t, err)
}

func (w *world) restart() {
	w.t.Helper()
	require.NoError(w.t, w.db.Close())
	w.start()
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) add(name string, role api.Role, groups ...string) api.User {
	w.t.Helper()
	u, err := w.CreateUser(w.t.Context(), api.UserSpec{Name: name, Role: role, Groups: groups, Password: api.NewSecret(right)})
	require.NoError(w.t, err)
	return u
}

func (w *world) tryFrom(name, password, from string) (string, error) {
	opened, err := w.SignIn(w.t.Context(), api.Credentials{Name: name, Password: api.NewSecret(password)}, from)
	return opened.Cookie.Reveal(), err
}

func (w *world) signIn(name string) string {
	w.t.Helper()
	cookie, err := w.tryFrom(name, right, home)
	require.NoError(w.t, err)
	return cookie
}

func (w *world) principal(cookie string) api.Principal {
	w.t.Helper()
	p, err := w.Session(cookie, true)
	require.NoError(w.t, err)
	return p
}

func code(err error) api.Code {
	if err == nil {
		return ""
	}
	return api.CodeOf(err)
}

func TestSetupTokenIsForTheFirstUser(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "setup.token")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	token := strings.TrimSpace(string(text))
	require.Contains(t, w.log.String(), path)
	require.NotContains(t, w.log.String(), token)

	w.restart()
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, text, again, "a restart keeps it")

	setUp := func(token, password string) (api.Opened, error) {
		return w.SetUp(t.Context(), api.SetupSpec{Token: api.NewSecret(token), Name: " Ada ", Password: api.NewSecret(password)}, home)
	}
	require.True(t, w.SetupNeeded())
	_, err = setUp("", right)
	require.Equal(t, api.CodeUnauthorized, code(err))
	_, err = setUp(token, "short")
	require.Equal(t, api.CodeInvalid, code(err))
	opened, err := setUp(token, right)
	require.NoError(t, err)
	require.Equal(t, "ada", opened.User.Name)
	require.Equal(t, api.RoleAdministrator, w.principal(opened.Cookie.Reveal()).Role)
	require.False(t, w.SetupNeeded())
	require.NoFileExists(t, path)
	_, err = setUp(token, right)
	require.Equal(t, api.CodeConflict, code(err))
	w.restart()
	require.NoFileExists(t, path)
}

func TestSetupTokenThatOthersCouldReadIsReplaced(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "setup.token")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o644))
	w.restart()
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotEqual(t, before, after)
}

func TestOnlyOneIsTheFirst(t *testing.T) {
	w := newWorld(t)
	text, err := os.ReadFile(filepath.Join(w.dir, "setup.token"))
	require.NoError(t, err)
	errs := make(chan error, 8)
	for i := range cap(errs) {
		go func() {
			_, err := w.SetUp(context.Background(), api.SetupSpec{Token: api.NewSecret(string(text)), Name: fmt.Sprint("user", i), Password: api.NewSecret(right)}, home)
			errs <- err
		}()
	}
	made := 0
	for range cap(errs) {
		if err := <-errs; err == nil {
			made++
		} else {
			require.Equal(t, api.CodeConflict, code(err))
		}
	}
	require.Equal(t, 1, made)
}

func TestPasswords(t *testing.T) {
	w := newWorld(t)
	for password, field := range map[string]string{
		"":                              "password",
		"elevenchars":                   "password",
		"ééééééééééé":                   "password", // bytes are not characters
		strings.Repeat("a", 300):        "password",
		strings.Repeat("é", 20):         "password",
		"bobbobbobbob":                  "password",
		"\xff\xfe long enough password": "password",
		"twelve chars":                  "",
		strings.Repeat("é", 255) + "e":  "",
		"日本語の長いパスワード十二": "",
	} {
		_, err := w.CreateUser(t.Context(), api.UserSpec{Name: "bob", Role: api.RoleViewer, Password: api.NewSecret(password)})
		if field == "" {
			require.NoError(t, err, password)
			w.add("root"+fmt.Sprint(len(w.users)), api.RoleAdministrator)
			require.NoError(t, w.DeleteUser(t.Context(), "bob"))
			continue
		}
		var e *api.Error
		require.ErrorAs(t, err, &e, password)
		require.Equal(t, field, e.Field, password)
	}
}

// A character can be typed in two ways, which look the same.
func TestPasswordsAreTheSameOnEveryKeyboard(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateUser(t.Context(), api.UserSpec{Name: "bob", Role: api.RoleViewer, Password: api.NewSecret("caf\u00e9 au lait twice")})
	require.NoError(t, err)
	_, err = w.tryFrom("bob", "cafe\u0301 au lait twice", home)
	require.NoError(t, err)
}

func TestNothingThatLetsInIsKept(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	cookie := w.signIn("ada")
	made, err := w.CreateToken(t.Context(), api.TokenSpec{Name: "x", Expires: w.clock().Add(time.Hour), By: w.principal(cookie)})
	require.NoError(t, err)
	require.NoError(t, w.db.Close())
	file, err := os.ReadFile(filepath.Join(w.dir, "state.db"))
	require.NoError(t, err)
	for _, secret := range []string{right, cookie, made.Shown.Reveal(), strings.TrimPrefix(made.Shown.Reveal(), TokenPrefix)} {
		require.NotContains(t, string(file), secret)
		require.NotContains(t, w.log.String(), secret)
	}
	require.Contains(t, string(file), "$argon2id$")
	w.start()
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	cookie := w.signIn("ada")
	w.restart()
	require.Equal(t, "ada", w.principal(cookie).Name, "a restart signs nobody out")
	_, err := w.Session(cookie+"x", true)
	require.Equal(t, api.CodeUnauthorized, code(err))

	for range 10 { // used all the time
		w.pass(DefaultIdle - time.Minute)
		w.principal(cookie)
	}
	w.restart()
	w.pass(DefaultIdle - 2*time.Minute)
	_, err = w.Session(cookie, false) // a stream that is open is no use
	require.NoError(t, err)
	w.pass(3 * time.Minute)
	_, err = w.Session(cookie, true)
	require.Equal(t, api.CodeUnauthorized, code(err), "idle")

	cookie = w.signIn("ada")
	me, err := w.Me(w.principal(cookie))
	require.NoError(t, err)
	require.Equal(t, w.clock().Add(DefaultIdle), *me.Expires)
	for range 12 {
		w.pass(time.Hour - time.Second)
		w.SetIdle(2 * time.Hour)
		w.principal(cookie)
	}
	w.pass(time.Minute)
	_, err = w.Session(cookie, true)
	require.Equal(t, api.CodeUnauthorized, code(err), "12 hours are the most")

	cookie = w.signIn("ada")
	require.NoError(t, w.SignOut(t.Context(), w.principal(cookie)))
	w.restart()
	_, err = w.Session(cookie, true)
	require.Equal(t, api.CodeUnauthorized, code(err))
}

func TestSessionsOfAUserAreBounded(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	first := w.signIn("ada")
	for range maxSessions {
		w.pass(time.Second)
		w.principal(w.signIn("ada"))
	}
	_, err := w.Session(first, true)
	require.Equal(t, api.CodeUnauthorized, code(err))
	require.Len(t, w.sessions, maxSessions)
}

func TestRightsChangeAtOnce(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	u := w.add("bob", api.RoleOperator)
	cookie := w.signIn("bob")
	made, err := w.CreateToken(t.Context(), api.TokenSpec{Name: "x", Expires: w.clock().Add(time.Hour), By: w.principal(cookie)})
	require.NoError(t, err)
	edit := func(edit api.UserEdit) {
		t.Helper()
		u, err = w.UpdateUser(t.Context(), "bob", u.Revision, edit)
		require.NoError(t, err)
	}
	edit(api.UserEdit{Role: api.RoleViewer, Groups: []string{"g1"}})
	for _, p := range []func() (api.Principal, error){
		func() (api.Principal, error) { return w.Session(cookie, true) }, func() (api.Principal, error) { return w.Bearer(made.Shown.Reveal()) },
	} {
		got, err := p()
		require.NoError(t, err)
		require.Equal(t, api.RoleViewer, got.Role)
		require.Equal(t, api.Scope{"g1"}, got.Scope)
	}
	edit(api.UserEdit{Role: api.RoleOperator, Password: api.NewSecret(other)})
	_, err = w.Session(cookie, true)
	require.Equal(t, api.CodeUnauthorized, code(err), "a new password ends the sessions")
	edit(api.UserEdit{Role: api.RoleOperator, Disabled: true})
	_, err = w.Bearer(made.Shown.Reveal())
	require.Equal(t, api.CodeUnauthorized, code(err))
	_, err = w.tryFrom("bob", other, home)
	require.ErrorIs(t, err, ErrWrong, "and does not learn that the password was right")
	require.NoError(t, w.DeleteUser(t.Context(), "bob"))
	w.restart()
	require.Empty(t, w.tokens)
	require.Empty(t, w.sessions)
}

func TestTheLastAdministratorStays(t *testing.T) {
	w := newWorld(t)
	ada := w.add("ada", api.RoleAdministrator)
	w.add("bob", api.RoleOperator)
	last := func() {
		t.Helper()
		require.Equal(t, api.CodeConflict, code(w.DeleteUser(t.Context(), "ada")))
		for _, edit := range []api.UserEdit{{Role: api.RoleViewer}, {Role: api.RoleAdministrator, Disabled: true}} {
			_, err := w.UpdateUser(t.Context(), "ada", ada.Revision, edit)
			require.Equal(t, api.CodeConflict, code(err))
		}
	}
	last()
	eve := w.add("eve", api.RoleAdministrator)
	_, err := w.UpdateUser(t.Context(), "eve", eve.Revision, api.UserEdit{Role: api.RoleAdministrator, Disabled: true})
	require.NoError(t, err)
	last() // one that cannot sign in does not count
	_, err = w.UpdateUser(t.Context(), "eve", eve.Revision+1, api.UserEdit{Role: api.RoleAdministrator})
	require.NoError(t, err)
	require.NoError(t, w.DeleteUser(t.Context(), "ada"))
}

func TestChangingThePasswordEndsOtherSessions(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	mine, stolen := w.signIn("ada"), w.signIn("ada")
	change := func(old, new string) error {
		return w.ChangePassword(t.Context(), w.principal(mine), api.PasswordChange{Old: api.NewSecret(old), New: api.NewSecret(new)})
	}
	require.Equal(t, api.CodeInvalid, code(change("wrong", other)))
	require.Equal(t, api.CodeInvalid, code(change(right, "short")))
	require.NoError(t, change(right, other))
	w.principal(mine)
	_, err := w.Session(stolen, true)
	require.Equal(t, api.CodeUnauthorized, code(err))
	_, err = w.tryFrom("ada", right, home)
	require.ErrorIs(t, err, ErrWrong)
	for range perPlace.burst - 1 {
		require.Equal(t, api.CodeInvalid, code(change("wrong", right)))
	}
	require.Equal(t, api.CodeThrottled, code(change("wrong", right)), "whoever found an open session cannot guess on")
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	w.add("bob", api.RoleViewer)
	ada, bob := w.principal(w.signIn("ada")), w.principal(w.signIn("bob"))
	spec := api.TokenSpec{Name: "x", Expires: w.clock().Add(time.Hour), By: bob}
	for _, wrong := range []func(*api.TokenSpec){
		func(s *api.TokenSpec) { s.Name = " " }, func(s *api.TokenSpec) { s.Role = api.RoleOperator }, func(s *api.TokenSpec) { s.Role = "root" },
		func(s *api.TokenSpec) { s.Expires = w.clock() }, func(s *api.TokenSpec) { s.Expires = w.clock().Add(2 * maxTokenLife) },
		func(s *api.TokenSpec) { s.By = api.Principal{Method: api.MethodLocal, Role: api.RoleAdministrator} },
	} {
		s := spec
		wrong(&s)
		_, err := w.CreateToken(t.Context(), s)
		require.Equal(t, api.CodeInvalid, code(err))
	}
	s := spec
	s.User = "ada"
	_, err := w.CreateToken(t.Context(), s)
	require.Equal(t, api.CodeForbidden, code(err))

	made, err := w.CreateToken(t.Context(), spec)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(made.Shown.Reveal(), TokenPrefix))
	p, err := w.Bearer(made.Shown.Reveal())
	require.NoError(t, err)
	require.Equal(t, api.Principal{User: bob.User, Name: "bob", Role: api.RoleViewer, Method: api.MethodToken, Credential: made.ID}, p)

	mine, err := w.ListTokens(t.Context(), api.TokenQuery{By: ada})
	require.NoError(t, err)
	require.Empty(t, mine)
	all, err := w.ListTokens(t.Context(), api.TokenQuery{By: ada, All: true})
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, w.clock(), *all[0].LastUsed)
	_, err = w.ListTokens(t.Context(), api.TokenQuery{By: bob, All: true})
	require.Equal(t, api.CodeForbidden, code(err))
	require.Equal(t, api.CodeNotFound, code(w.DeleteToken(t.Context(), made.ID, api.TokenQuery{By: ada})))

	w.pass(time.Hour)
	_, err = w.Bearer(made.Shown.Reveal())
	require.ErrorContains(t, err, "expired")
	require.NoError(t, w.DeleteToken(t.Context(), made.ID, api.TokenQuery{By: ada, All: true}))
	w.restart()
	_, err = w.Bearer(made.Shown.Reveal())
	require.ErrorContains(t, err, "deleted")
}

// Strangers cannot keep somebody out who comes from where they came before, and cannot guess from many places at once.
func TestThrottleStopsGuessingAndLocksNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	w.signIn("ada") // from home
	guesses := 0
	for i := range 1000 { // from a thousand places
		if _, err := w.tryFrom("ada", "a guess that is wrong", fmt.Sprintf("198.51.%d.%d", 100+i/250, i%250)); code(err) != api.CodeThrottled {
			guesses++
		}
	}
	require.Equal(t, perName.burst, guesses)
	_, err := w.tryFrom("ada", right, away)
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, api.CodeThrottled, e.Code)
	require.Equal(t, perName.every, e.RetryAfter)
	w.signIn("ada")
	w.restart()
	require.Equal(t, "ada", w.principal(w.signIn("ada")).Name)

	for range perPlace.burst {
		_, err := w.tryFrom("ada", "a guess that is wrong", home)
		require.ErrorIs(t, err, ErrWrong)
	}
	_, err = w.tryFrom("ada", right, home)
	require.Equal(t, api.CodeThrottled, code(err), "a place that is known is bounded too")
	w.pass(perPlace.every)
	w.signIn("ada")
	for range 3 * perPlace.burst {
		w.signIn("ada") // what is right costs nothing
	}
}

func TestAddressesAreThrottledForAllNames(t *testing.T) {
	w := newWorld(t)
	for i := range perAddress.burst {
		_, err := w.tryFrom(fmt.Sprint("user", i), right, fmt.Sprintf("2001:db8::%x", i)) // one network
		require.ErrorIs(t, err, ErrWrong)
	}
	_, err := w.tryFrom("user", right, "2001:db8::ffff")
	require.Equal(t, api.CodeThrottled, code(err))
	_, err = w.tryFrom("user", right, "2001:db8:0:1::1")
	require.ErrorIs(t, err, ErrWrong)
	w.pass(-time.Hour) // the clock is set back
	_, err = w.tryFrom("user", right, "2001:db8::ffff")
	require.Equal(t, api.CodeThrottled, code(err))
	w.pass(perAddress.every)
	_, err = w.tryFrom("user", right, "2001:db8::ffff")
	require.ErrorIs(t, err, ErrWrong)
}

func TestThrottleMemoryIsBounded(t *testing.T) {
	now := time.Now()
	th := newThrottle(func() time.Time { return now })
	for i := range maxBuckets + 1000 {
		_ = th.take(try{fmt.Sprint(i), perAddress})
	}
	require.LessOrEqual(t, len(th.buckets), maxBuckets+2)
	require.Error(t, th.take(try{"one more", perAddress}), "they share a bucket, which is empty")
	now = now.Add(time.Hour)
	require.NoError(t, th.take(try{"one more", perAddress}))
	require.Less(t, len(th.buckets), 10)
}

// As many at once are as many one after the other.
func TestThrottleCountsBeforeItKnows(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	answers := make(chan error, 40)
	for range cap(answers) {
		go func() {
			_, err := w.SignIn(context.Background(), api.Credentials{Name: "ada", Password: api.NewSecret("a guess that is wrong")}, away)
			answers <- err
		}()
	}
	guesses := 0
	for range cap(answers) {
		if code(<-answers) == api.CodeUnauthorized {
			guesses++
		}
	}
	require.Equal(t, perAddress.burst, guesses)
}

// An unknown name takes the time of a known one: the same hash is computed, and its outcome thrown away.
func TestUnknownNamesAreHashedToo(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	ada, _ := w.byName("ada")
	for _, hash := range []string{"", ada.Hash} {
		w.passwords.turn = make(chan struct{}) // nobody's turn comes
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := w.passwords.match(ctx, api.NewSecret(right), hash)
		require.ErrorIs(t, err, context.Canceled)
	}
}

type directory map[string]Identity

func (d directory) Check(_ context.Context, name string, password api.Secret) (Identity, error) {
	i, ok := d[name]
	if !ok || password.Reveal() != other {
		return Identity{}, ErrWrong
	}
	return i, nil
}

func TestDirectory(t *testing.T) {
	w := newWorld(t)
	w.add("ada", api.RoleAdministrator)
	d := directory{
		"carl": {Source: "ldap", Subject: "uuid-1", Name: "Carl", FullName: "Carl C", Role: api.RoleOperator, Groups: []string{"g1"}},
		"ada":  {Source: "ldap", Subject: "uuid-2", Name: "ada", Role: api.RoleAdministrator},
		"eve":  {Source: "ldap", Subject: "uuid-3", Name: "ADA", Role: api.RoleAdministrator},
	}
	w.SetDirectory(d)
	require.True(t, w.Ways().LDAP)
	cookie, err := w.tryFrom("carl", other, home)
	require.NoError(t, err)
	require.Equal(t, api.Scope{"g1"}, w.principal(cookie).Scope)
	_, err = w.tryFrom("carl", "", home)
	require.ErrorIs(t, err, ErrWrong)
	_, err = w.tryFrom("ada", other, home)
	require.ErrorIs(t, err, ErrWrong, "the directory is not asked for local users")
	_, err = w.tryFrom("eve", other, home)
	require.Equal(t, api.CodeConflict, code(err), "nor can it take their name")

	changed := d["carl"]
	changed.Role, changed.Groups = api.RoleViewer, nil
	d["carl"] = changed
	_, err = w.tryFrom("carl", other, home)
	require.NoError(t, err)
	p := w.principal(cookie)
	require.Equal(t, api.RoleViewer, p.Role)
	require.Nil(t, p.Scope)

	carl, err := w.GetUser(t.Context(), "carl")
	require.NoError(t, err)
	_, err = w.UpdateUser(t.Context(), "carl", carl.Revision, api.UserEdit{Role: api.RoleViewer, Disabled: true})
	require.NoError(t, err)
	_, err = w.tryFrom("carl", other, home)
	require.ErrorIs(t, err, ErrWrong)
	w.SetDirectory(nil)
	require.False(t, w.Ways().LDAP)
}
