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
		a.dangerous("drop GROUP POINT", "Drop a recovery point",
			func(ctx context.Context, c *client.Client, args []string) ([]string, error) {
				p, err := findPoint(ctx, c, args[0], args[1])
				if err != nil {
					return nil, err
				}
				return []string{fmt.Sprintf("Group %s can never again be started from %s.", args[0], a.pointText(p))}, nil
			},
			func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
				return c.DropPoint(ctx, args[0], args[1])
			}, nil))
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

// findPoint gives the named point, or the newest one that is not suspect when id is empty.
func findPoint(ctx context.Context, c *client.Client, group, id string) (api.Point, error) {
	points, err := c.ListPoints(ctx, group)
	if err != nil {
		return api.Point{}, err
	}
	var found *api.Point
	for i, p := range points {
		if id == "" && p.Suspect == "" && (found == nil || p.Taken.After(found.Taken)) || p.ID == id {
			found = &points[i]
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case id == "" && len(points) > 0:
		return api.Point{}, api.Errorf(api.CodeConflict, "Wait for the next cycle, which compares everything, or name one of them.",
			"all points of group %s are suspect", group)
	case id == "":
		return api.Point{}, api.Errorf(api.CodeConflict, "Wait for the first mirror.", "group %s has no recovery point yet", group)
	}
	return api.Point{}, api.Errorf(api.CodeNotFound, fmt.Sprintf("See \"understudy points list %s\".", group),
		"group %s has no point %s", group, id)
}

func (a *app) pointText(p api.Point) string {
	return fmt.Sprintf("point %s of %s (%s ago, %s consistent)", p.ID, stamp(p.Taken), a.age(p.Taken), p.Consistency)
}
