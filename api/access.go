package api

import (
	"context"
	"slices"
	"time"
)

// Role says what a person or a program may do. Each includes those before it.
type Role string

// The roles.
const (
	RoleViewer        Role = "viewer"        // looks
	RoleOperator      Role = "operator"      // runs what is set up: sync, test, failover and back
	RoleAdministrator Role = "administrator" // sets up: hosts, groups, users, settings
)

var ranks = []Role{RoleViewer, RoleOperator, RoleAdministrator}

// Includes tells whether whoever has role r may do what needs the other. An unknown role includes nothing.
func (r Role) Includes(other Role) bool {
	have, need := slices.Index(ranks, r), slices.Index(ranks, other)
	return need >= 0 && have >= need
}

// Scope are the ids of the groups that somebody may see; nil means everything there is.
type Scope []string

// Has tells whether the group with this id is in the scope. What belongs to no group ("") is only in the scope of those
// who may see everything.
func (s Scope) Has(group string) bool { return s == nil || slices.Contains(s, group) }

// How a principal proved who it is.
const (
	MethodLocal   = "local"   // the token in the appliance's data directory
	MethodSession = "session" // a person in the console
	MethodToken   = "token"   // an API token
)

// Principal is who asks. It is made by the server for each request and never travels.
type Principal struct {
	User   string // id; empty for MethodLocal
	Name   string
	Role   Role
	Scope  Scope
	Method string // one of the constants above
	// Credential is the id of the session or of the API token.
	Credential string
}

// Users are the people who may sign in.
type Users interface {
	ListUsers(ctx context.Context) ([]User, error)
	GetUser(ctx context.Context, id string) (User, error)
	CreateUser(ctx context.Context, spec UserSpec) (User, error)
	// UpdateUser changes a user; revision must be the one that was read (CodeStale). The last administrator can be
	// neither disabled nor demoted nor deleted (CodeConflict).
	UpdateUser(ctx context.Context, id string, revision int64, edit UserEdit) (User, error)
	// DeleteUser ends the user's sessions and tokens too.
	DeleteUser(ctx context.Context, id string) error
}

// User is somebody who may sign in.
type User struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision" doc:"For If-Match"`
	Name     string `json:"name"`
	FullName string `json:"fullName"`
	Role     Role   `json:"role" enum:"viewer,operator,administrator"`
	// Groups narrow what a viewer or an operator sees.
	Groups     []string   `json:"groups" doc:"Ids of the groups that the user sees; empty means all"`
	Source     string     `json:"source" enum:"local,ldap,oidc,built-in" doc:"Who checks the password"`
	Disabled   bool       `json:"disabled"`
	Created    time.Time  `json:"created"`
	LastSignIn *time.Time `json:"lastSignIn,omitempty"`
}

// UserSpec is a user with a password of the appliance's own.
type UserSpec struct {
	Name     string   `json:"name" minLength:"1" maxLength:"64" doc:"What the user signs in with; capitals do not matter"`
	FullName string   `json:"fullName,omitempty" maxLength:"128"`
	Role     Role     `json:"role" enum:"viewer,operator,administrator"`
	Groups   []string `json:"groups,omitempty" maxItems:"1000" doc:"Ids of the groups that the user sees; empty means all, which administrators need"`
	Password Secret   `json:"password" writeOnly:"true" format:"password" maxLength:"256" doc:"12 to 256 characters"`
}

// UserEdit is a user as it shall be.
type UserEdit struct {
	FullName string   `json:"fullName,omitempty" maxLength:"128"`
	Role     Role     `json:"role" enum:"viewer,operator,administrator"`
	Groups   []string `json:"groups,omitempty" maxItems:"1000" doc:"As in the making of a user"`
	Disabled bool     `json:"disabled,omitempty"`
	Password Secret   `json:"password,omitzero" writeOnly:"true" format:"password" maxLength:"256" doc:"A new one, which ends the user's sessions; left out: as it was"`
}

// Tokens let programs in on behalf of users.
type Tokens interface {
	ListTokens(ctx context.Context, q TokenQuery) ([]Token, error)
	// CreateToken gives the token once; it is never shown again.
	CreateToken(ctx context.Context, spec TokenSpec) (NewToken, error)
	DeleteToken(ctx context.Context, id string, q TokenQuery) error
}

// TokenQuery says whose tokens.
type TokenQuery struct {
	All bool      // those of all users; administrators only
	By  Principal // filled by the server
}

// TokenSpec is a token that is wanted.
type TokenSpec struct {
	Name    string    `json:"name" minLength:"1" maxLength:"64" doc:"What it is for"`
	Role    Role      `json:"role,omitempty" enum:"viewer,operator,administrator" doc:"At most that of its user; empty means the user's"`
	Expires time.Time `json:"expires" doc:"At most a year from now"`
	User    string    `json:"user,omitempty" maxLength:"128" doc:"Id or name of the user that it is for; empty means oneself. Administrators only"`
	By      Principal `json:"-"` // filled by the server
}

// Token lets a program in on behalf of a user.
type Token struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	User     string     `json:"user" doc:"Id of the user"`
	UserName string     `json:"userName"`
	Role     Role       `json:"role" enum:"viewer,operator,administrator"`
	Created  time.Time  `json:"created"`
	Expires  time.Time  `json:"expires"`
	LastUsed *time.Time `json:"lastUsed,omitempty"`
}

// NewToken is a token that was just made, with the one look at it.
type NewToken struct {
	Token
	Shown Secret `json:"token" readOnly:"true" doc:"For Authorization: Bearer. It is shown this once"`
}

// Me is who is signed in.
type Me struct {
	User    User       `json:"user"`
	CSRF    string     `json:"csrf,omitempty" doc:"For the header X-CSRF-Token of everything but GET, in a session"`
	Expires *time.Time `json:"expires,omitempty" doc:"When the session ends if nothing happens, or the token does"`
}

// Opened is a session that was just opened. Its cookie goes to the browser and nowhere else.
type Opened struct {
	Me
	Cookie Secret
}

// Credentials are what a person signs in with.
type Credentials struct {
	Name     string `json:"name" minLength:"1" maxLength:"1024"`
	Password Secret `json:"password" writeOnly:"true" format:"password" maxLength:"1024"`
}

// PasswordChange is a person's new password.
type PasswordChange struct {
	Old Secret `json:"old" writeOnly:"true" format:"password" maxLength:"256"`
	New Secret `json:"new" writeOnly:"true" format:"password" maxLength:"256" doc:"12 to 256 characters"`
}

// Setup tells whether the first administrator is still to be made.
type Setup struct {
	Needed bool `json:"needed"`
}

// SetupSpec makes the first administrator.
type SetupSpec struct {
	Token    Secret `json:"token" writeOnly:"true" format:"password" maxLength:"256" doc:"From the file setup.token in the appliance's data directory"`
	Name     string `json:"name" minLength:"1" maxLength:"64"`
	FullName string `json:"fullName,omitempty" maxLength:"128"`
	Password Secret `json:"password" writeOnly:"true" format:"password" maxLength:"256" doc:"12 to 256 characters"`
}

// SignInWays tells how one can sign in.
type SignInWays struct {
	Local bool      `json:"local" doc:"With a name and password of the appliance's own"`
	LDAP  bool      `json:"ldap" doc:"With a name and password of a directory"`
	OIDC  *Provider `json:"oidc,omitempty" doc:"At a provider"`
}

// Provider is who proves people at its own page.
type Provider struct {
	Name string `json:"name"`
}
