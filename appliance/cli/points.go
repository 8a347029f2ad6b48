package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) points() *cobra.Command {
	return family("points", "Look at recovery points", a.pointList("list GROUP"),
		a.planned("drop GROUP POINT", "Drop a recovery point", always,
			func(args []string) api.PlanOrder { return api.PlanOrder{Order: "drop-point", Point: args[1]} },
			func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
				return c.DropPoint(ctx, args[0], args[1])
			}))
}

func (a *app) pointList(use string) *cobra.Command {
	return a.command(use, "List the recovery points of a group", 1, func(ctx context.Context, c *client.Client, args []string) error {
		points, err := c.ListPoints(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(points, func(w io.Writer) {
			t := newTable(w, "POINT", "TAKEN", "AGE", "KIND", "CONSISTENCY", "READ", "WRITTEN", "TOOK", "VERIFIED", "SUSPECT")
			for _, p := range points {
				t.row(p.ID, stamp(p.Taken), a.age(p.Taken), p.Kind, p.Consistency, size(p.BytesRead), size(p.BytesWritten),
					fmt.Sprintf("%.1fs", p.Seconds), yesNo(p.Verified), p.Suspect)
			}
			t.flush()
		})
	})
}

func (a *app) pointText(p api.Point) string {
	return fmt.Sprintf("point %s of %s (%s ago, %s consistent)", p.ID, stamp(p.Taken), a.age(p.Taken), p.Consistency)
}
