package access

import (
	"cmp"
	"context"
	"slices"
	"time"

	"understudy/api"
)

// How long sessions last.
const (
	// DefaultIdle is how long a session lasts in which nothing happens, until somebody sets another time.
	DefaultIdle = 30 * time.Minute
	// absolute is how long it lasts at most.
	absolute = 12 * time.Hour
	// seenEvery is how exactly the disk knows when something happened in it.
	seenEvery = time.Minute
	// maxSessions of one user: the oldest make room.
	maxSessions = 32
)

// session is kept by the digest of what the browser has.
type session struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	From    string    `json:"from"`
	Created time.Time `json:"created"`
	Seen    time.Time `json:"seen"`
	kept    time.Time // Seen as the disk has it
}

// SetIdle says how long a session lasts in which nothing happens.
func (a *Access) SetIdle(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.idle = d
}

// expires tells when a session ends if nothing happens. The lock is held.
func (a *Access) expires(s session) time.Time {
	end, idle := s.Created.Add(absolute), s.Seen.Add(a.idle)
	if idle.Before(end) {
		return idle
	}
	return end
}

func errSignedOut() error {
	return api.Errorf(api.CodeUnauthorized, "Sign in again.", "the session has ended")
}

// Session finds who has the cookie. With touch, the session lasts on: something was done in it.
func (a *Access) Session(cookie string, touch bool) (api.Principal, error) {
	now, key := a.Clock().UTC(), digest(cookie)
	a.mu.Lock()
	s, known := a.sessions[key]
	u, there := a.users[s.User]
	alive := known && there && !u.Disabled && a.offered(u.Source) && now.Before(a.expires(s))
	late := false
	if alive && touch && now.After(s.Seen) {
		s.Seen = now
		if late = now.Sub(s.kept) >= seenEvery; late {
			s.kept = now
		}
		a.sessions[key] = s
	}
	a.mu.Unlock()
	if !alive {
		return api.Principal{}, errSignedOut()
	}
	if late {
		a.keepSeen(key)
	}
	p := u.principal(api.MethodSession)
	p.Credential = s.ID
	return p, nil
}

// keepSeen writes down that something happened in a session, unless it has ended meanwhile.
func (a *Access) keepSeen(key string) {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.RLock()
	s, known := a.sessions[key]
	a.mu.RUnlock()
	if !known {
		return
	}
	if err := a.Store.Put(bucketSessions, key, s); err != nil {
		a.Log.Warn("session would end too early after a restart", "session", s.ID, "error", err)
	}
}

// open makes a session for a user, if valid still says so. A.writing is held.
func (a *Access) open(u user, from string) (api.Opened, error) {
	now := a.Clock().UTC()
	a.sweepSessions(u.ID, now)
	u.LastSignIn = &now
	u.remember(place(from), now)
	if err := a.keepUser(u); err != nil {
		return api.Opened{}, err
	}
	cookie := chance()
	s := session{ID: newID(), User: u.ID, From: from, Created: now, Seen: now, kept: now}
	if err := a.Store.Put(bucketSessions, digest(cookie), s); err != nil {
		return api.Opened{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions[digest(cookie)] = s
	end := a.expires(s)
	return api.Opened{Cookie: api.NewSecret(cookie), Me: api.Me{User: u.User, Expires: &end}}, nil
}

// sweepSessions ends sessions that have expired, and makes room for one more of the user.
func (a *Access) sweepSessions(user string, now time.Time) {
	type old struct {
		key     string
		created time.Time
	}
	var own []old
	var ended []string
	a.mu.RLock()
	for key, s := range a.sessions {
		if !now.Before(a.expires(s)) {
			ended = append(ended, key)
		} else if s.User == user {
			own = append(own, old{key, s.Created})
		}
	}
	a.mu.RUnlock()
	slices.SortFunc(own, func(x, y old) int { return cmp.Or(x.created.Compare(y.created), cmp.Compare(x.key, y.key)) })
	for len(own) >= maxSessions {
		ended, own = append(ended, own[0].key), own[1:]
	}
	if err := a.endSessions(ended); err != nil {
		a.Log.Warn("old sessions stay on the disk", "error", err)
	}
}

// endSessions ends them for good: first here, so that one which cannot be deleted is over all the same until a restart.
func (a *Access) endSessions(keys []string) error {
	a.mu.Lock()
	for _, key := range keys {
		delete(a.sessions, key)
	}
	a.mu.Unlock()
	for _, key := range keys {
		if err := a.Store.Delete(bucketSessions, key); err != nil {
			return err
		}
	}
	return nil
}

// sessionsOf gives the keys of a user's sessions but the one with the id except.
func (a *Access) sessionsOf(user, except string) []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var keys []string
	for key, s := range a.sessions {
		if s.User == user && s.ID != except {
			keys = append(keys, key)
		}
	}
	return keys
}

// SignOut ends the session of p. Whoever came with a token has none.
func (a *Access) SignOut(_ context.Context, p api.Principal) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	var keys []string
	a.mu.RLock()
	for key, s := range a.sessions {
		if p.Method == api.MethodSession && s.ID == p.Credential {
			keys = append(keys, key)
		}
	}
	a.mu.RUnlock()
	return a.endSessions(keys)
}

// Me tells p who it is.
func (a *Access) Me(p api.Principal) (api.Me, error) {
	if p.Method == api.MethodLocal {
		return api.Me{User: api.User{ID: p.Name, Name: p.Name, Role: p.Role, Groups: []string{}, Source: "built-in"}}, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	me := api.Me{User: a.users[p.User].User}
	if me.User.ID == "" {
		return api.Me{}, errSignedOut()
	}
	me.User.Role = p.Role // a token may have a lesser one
	switch p.Method {
	case api.MethodSession:
		for _, s := range a.sessions {
			if s.ID == p.Credential {
				end := a.expires(s)
				me.Expires = &end
			}
		}
	case api.MethodToken:
		end := a.tokens[p.Credential].Expires
		me.Expires = &end
	}
	return me, nil
}
