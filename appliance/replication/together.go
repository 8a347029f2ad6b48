package replication

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// together does something to every member of a group on one of its hosts: begun in the group's order, several at once. How
// many work on a host at once is bounded over all groups (Options.AtOnce): in the night when everything fails over, a
// host that starts a hundred machines at once starts none.
//
// After the first error nobody else begins, but whoever is at work ends it: half a start helps nobody. That error is
// returned, with the member's name.
func (e *Engine) together(ctx context.Context, g group, hostID string, do func(ctx context.Context, i int) error) error {
	return e.some(ctx, g, hostID, g.order(), do)
}

// some is together for some of the members.
func (e *Engine) some(ctx context.Context, g group, hostID string, members []int, do func(ctx context.Context, i int) error) error {
	host, err := e.endpoint(hostID)
	if err != nil {
		return err
	}
	work, begin := errgroup.WithContext(ctx)
	for _, i := range members {
		if err := host.starts.Acquire(begin, 1); err != nil {
			break // ctx has ended, or somebody failed
		}
		if begin.Err() != nil {
			host.starts.Release(1)
			break
		}
		work.Go(func() error {
			defer host.starts.Release(1)
			if err := do(ctx, i); err != nil {
				return fmt.Errorf("%s: %w", g.Members[i].Name, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
