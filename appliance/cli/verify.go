package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) verify() *cobra.Command {
	var wait waitFlags
	var show bool
	cmd := a.command("verify GROUP", "Compare the replicas with their sources in full, beside running replication", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			if show {
				return a.showVerification(ctx, c, args[0])
			}
			job, err := c.Verify(ctx, args[0])
			if err != nil {
				return err
			}
			if !wait.wait() {
				return a.finish(ctx, c, job, wait)
			}
			// What differed is worth seeing even more than that nothing did.
			failed := a.wait(ctx, c, job)
			if ctx.Err() == nil {
				err = a.showVerification(ctx, c, args[0])
			}
			if failed != nil {
				return failed
			}
			return err
		})
	cmd.Long = cmd.Short + `.

The source's bytes, the bytes that the target gives back and the hashes that were kept at the copy are compared block by
block. A difference is an alert, marks the points that are built on it as suspect, and is repaired by a new point; the
command then ends with an error all the same. "groups policy GROUP --verify-every 7d" does it by schedule.`
	cmd.Flags().BoolVar(&show, "show", false, "order nothing; show the running verification, or the last one")
	wait.add(cmd)
	return cmd
}

func (a *app) showVerification(ctx context.Context, c *client.Client, group string) error {
	g, err := c.GetGroup(ctx, group)
	if err != nil {
		return err
	}
	if g.Verification == nil {
		return api.Errorf(api.CodeNotFound, fmt.Sprintf("See \"understudy verify %s\".", group), "group %s was never verified", group)
	}
	return a.show(g.Verification, func(w io.Writer) { writeVerification(w, *g.Verification) })
}

func writeVerification(w io.Writer, v api.Verification) {
	ended := ""
	if v.Ended != nil {
		ended = stamp(*v.Ended)
	}
	facts(w, "verification", v.ID, "state", v.State, "started", stamp(v.Started), "ended", ended,
		"compared", fmt.Sprintf("%s, %s", count(int(v.BlocksCompared), "block"), size(v.BytesCompared)),
		"different", fmt.Sprintf("%s, %s", count(int(v.BlocksDifferent), "block"), size(v.BytesDifferent)),
		"points", strings.Join(v.Points, ", "), "suspect", strings.Join(v.Suspect, ", "), "repaired by", v.Repaired, "problem", v.Problem)
	fmt.Fprintln(w)
	t := newTable(w, "MACHINE", "DISK", "SIZE", "COMPARED", "DIFFERENT", "DAMAGED AT TARGET", "FIRST AT")
	for _, m := range v.Machines {
		for _, d := range m.Disks {
			first := "-"
			if len(d.Ranges) > 0 {
				first = fmt.Sprint(d.Ranges[0].Offset)
			}
			t.row(m.Machine, d.ID, size(d.Size), size(d.BytesCompared), size(d.BytesDifferent), size(d.BytesDamaged), first)
		}
	}
	t.flush()
}
