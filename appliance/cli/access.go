package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) whoAmI() *cobra.Command {
	return a.command("whoami", "Tell whom the token belongs to", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		me, err := c.WhoAmI(ctx)
		if err != nil {
			return err
		}
		expires := ""
		if me.Expires != nil {
			expires = stamp(*me.Expires)
		}
		return a.show(me, func(w io.Writer) {
			facts(w, "name", me.User.Name, "full name", me.User.FullName, "role", string(me.User.Role), "groups", strings.Join(me.User.Groups, ", "),
				"source", me.User.Source, "expires", expires)
		})
	})
}

func (a *app) users() *cobra.Command {
	return family("users", "Say who may sign in", a.userAdd(), a.userSet(),
		a.command("list", "List the users", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			users, err := c.ListUsers(ctx)
			if err != nil {
				return err
			}
			return a.show(users, func(w io.Writer) {
				t := newTable(w, "NAME", "ROLE", "GROUPS", "SOURCE", "DISABLED", "LAST SIGN-IN")
				for _, u := range users {
					last := "never"
					if u.LastSignIn != nil {
						last = stamp(*u.LastSignIn)
					}
					t.row(u.Name, u.Role, groupsText(u.Groups), u.Source, yesNo(u.Disabled), last)
				}
				t.flush()
			})
		}),
		a.command("remove USER", "Delete a user with all sessions and tokens", 1, func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteUser(ctx, args[0]); err != nil {
				return err
			}
			return a.show(struct{}{}, func(w io.Writer) { fmt.Fprintf(w, "user %s removed\n", plain(args[0])) })
		}))
}

func groupsText(groups []string) string {
	if len(groups) == 0 {
		return "all"
	}
	return strings.Join(groups, ", ")
}

func (a *app) showUser(u api.User) error {
	return a.show(u, func(w io.Writer) {
		facts(w, "name", u.Name, "id", u.ID, "full name", u.FullName, "role", string(u.Role), "groups", groupsText(u.Groups), "source", u.Source,
			"disabled", yesNo(u.Disabled))
	})
}

func (a *app) userAdd() *cobra.Command {
	var spec api.UserSpec
	var role, file string
	cmd := a.command("add NAME", "Let somebody in, with a password of the appliance's own", 1, func(ctx context.Context, c *client.Client, args []string) error {
		password, err := a.secret("password", file, true)
		if err != nil {
			return err
		}
		spec.Name, spec.Role, spec.Password = args[0], api.Role(role), password
		u, err := c.CreateUser(ctx, spec)
		if err != nil {
			return err
		}
		return a.showUser(u)
	})
	cmd.Long = `Let somebody in. A viewer looks; an operator also runs what is set up: sync, test, failover and back; an administrator sets up.
The password is asked for.`
	cmd.Flags().StringVar(&role, "role", string(api.RoleViewer), "viewer, operator or administrator")
	cmd.Flags().StringVar(&spec.FullName, "full-name", "", "name of the person")
	cmd.Flags().StringSliceVar(&spec.Groups, "group", nil, "a group that the user sees; can be repeated (default: all)")
	passwordFlag(cmd, &file)
	return cmd
}

func passwordFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "password-file", "", "read the password from the first line of this file, - for standard input")
}

func (a *app) userSet() *cobra.Command {
	var role, fullName, file string
	var groups []string
	var everything, disabled, password bool
	var cmd *cobra.Command
	cmd = a.command("set USER", "Change a user; what is not named stays", 1, func(ctx context.Context, c *client.Client, args []string) error {
		changed := cmd.Flags().Changed
		if everything && changed("group") {
			return wrong("--group and --all-groups contradict each other")
		}
		u, err := c.GetUser(ctx, args[0])
		if err != nil {
			return err
		}
		edit := api.UserEdit{FullName: u.FullName, Role: u.Role, Groups: u.Groups, Disabled: u.Disabled}
		if changed("role") {
			edit.Role = api.Role(role)
		}
		if changed("full-name") {
			edit.FullName = fullName
		}
		if changed("group") || everything {
			edit.Groups = groups
		}
		if changed("disabled") {
			edit.Disabled = disabled
		}
		if password || file != "" {
			if edit.Password, err = a.secret("password", file, true); err != nil {
				return err
			}
		}
		if u, err = c.UpdateUser(ctx, u.ID, u.Revision, edit); err != nil {
			return err
		}
		return a.showUser(u)
	})
	cmd.Flags().StringVar(&role, "role", "", "viewer, operator or administrator")
	cmd.Flags().StringVar(&fullName, "full-name", "", "name of the person")
	cmd.Flags().StringSliceVar(&groups, "group", nil, "a group that the user sees; can be repeated")
	cmd.Flags().BoolVar(&everything, "all-groups", false, "let the user see all groups")
	cmd.Flags().BoolVar(&disabled, "disabled", false, "let the user in no more; --disabled=false lets it in again")
	cmd.Flags().BoolVar(&password, "password", false, "ask for a new password, which ends the user's sessions")
	passwordFlag(cmd, &file)
	return cmd
}

func (a *app) tokens() *cobra.Command {
	var all bool
	list := a.command("list", "List API tokens", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		tokens, err := c.ListTokens(ctx, api.TokenQuery{All: all})
		if err != nil {
			return err
		}
		return a.show(tokens, func(w io.Writer) {
			t := newTable(w, "ID", "NAME", "USER", "ROLE", "EXPIRES", "LAST USED")
			for _, token := range tokens {
				used := "never"
				if token.LastUsed != nil {
					used = stamp(*token.LastUsed)
				}
				t.row(token.ID, token.Name, token.UserName, token.Role, stamp(token.Expires), used)
			}
			t.flush()
		})
	})
	list.Flags().BoolVar(&all, "all", false, "those of all users; administrators only")
	var others bool
	remove := a.command("remove ID", "Delete an API token", 1, func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.DeleteToken(ctx, args[0], api.TokenQuery{All: others}); err != nil {
			return err
		}
		return a.show(struct{}{}, func(w io.Writer) { fmt.Fprintf(w, "token %s removed\n", plain(args[0])) })
	})
	remove.Flags().BoolVar(&others, "all", false, "also one of another user; administrators only")
	return family("tokens", "Let programs in", list, a.tokenAdd(), remove)
}

func (a *app) tokenAdd() *cobra.Command {
	var spec api.TokenSpec
	var role string
	life := duration{seconds: 90 * 24 * 3600, set: true}
	cmd := a.command("add NAME", "Make an API token, which is shown once", 1, func(ctx context.Context, c *client.Client, args []string) error {
		spec.Name, spec.Role = args[0], api.Role(role)
		spec.Expires = a.now().Add(time.Duration(life.seconds) * time.Second).UTC()
		t, err := c.CreateToken(ctx, spec)
		if err != nil {
			return err
		}
		t.Shown = t.Shown.InClear() // to whoever ordered it, this once
		return a.show(t, func(w io.Writer) { fmt.Fprintln(w, t.Shown.Reveal()) })
	})
	cmd.Long = `Make an API token. Programs send it as "Authorization: Bearer TOKEN", the command line reads it from the file that
UNDERSTUDY_TOKEN_FILE names. It may do what its user may, or less with --role, and ends with its user.`
	cmd.Flags().StringVar(&spec.User, "user", "", "user that the token is for; needed with the appliance's own token")
	cmd.Flags().StringVar(&role, "role", "", "viewer, operator or administrator (default: that of the user)")
	cmd.Flags().Var(&life, "expires", "how long it lasts, at most a year")
	return cmd
}

func (a *app) audit() *cobra.Command {
	return family("audit", "Look at what was changed and tried, by whom", a.auditList(), a.auditExport(), a.auditVerify())
}

func (a *app) auditList() *cobra.Command {
	var q api.AuditQuery
	cmd := a.command("list", "List the newest entries", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		page, err := c.ListAudit(ctx, q)
		if err != nil {
			return err
		}
		return a.show(page, func(w io.Writer) {
			t := newTable(w, "ID", "TIME", "USER", "FROM", "ACTION", "SUBJECT", "OUTCOME", "MESSAGE")
			for _, e := range page.Items {
				t.row(e.ID, stamp(e.Time), orDash(e.User), orDash(e.Source), e.Action, orDash(e.Subject), e.Outcome, orDash(e.Message))
			}
			t.flush()
		})
	})
	cmd.Flags().StringVar(&q.Q, "text", "", "only entries with this text")
	cmd.Flags().StringVar(&q.User, "user", "", "only those of this user")
	cmd.Flags().StringVar(&q.Action, "action", "", "only this operation, such as failover")
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "at most so many")
	return cmd
}

func (a *app) auditExport() *cobra.Command {
	return a.command("export", "Write the whole log, one entry in JSON on each line", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		return c.ExportAudit(ctx, time.Time{}, time.Time{}, client.WriteAudit(a.out))
	})
}

func (a *app) auditVerify() *cobra.Command {
	var file string
	cmd := a.command("verify", "Look whether an entry was changed, left out or put in", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		var chain api.AuditChain
		n := 0
		next := func(e api.AuditEntry) error {
			n++
			return chain.Next(e)
		}
		if file == "" {
			if err := c.ExportAudit(ctx, time.Time{}, time.Time{}, next); err != nil {
				return err
			}
		} else {
			f, err := os.Open(file)
			if err != nil {
				return wrong(err.Error())
			}
			defer f.Close()
			if err := client.ReadAudit(f, next); err != nil {
				return err
			}
		}
		return a.show(struct {
			Entries int    `json:"entries"`
			Head    string `json:"head"`
		}{n, chain.Head()}, func(w io.Writer) {
			fmt.Fprintf(w, "the entries fit together (%d); the last is %s\n", n, chain.Head())
		})
	})
	cmd.Long = `Look whether an entry of the audit log was changed, left out or put in: each holds the hash of the one before. Whoever notes the last
hash, which the daemon also logs at each start, can tell later whether the end was cut off.`
	cmd.Flags().StringVar(&file, "file", "", "an exported log instead of the appliance's")
	return cmd
}
