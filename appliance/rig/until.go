package rig

import (
	"context"
	"time"
)

// Patience bounds every wait, many times what a slow machine needs.
const Patience = 10 * time.Minute

// Until asks until the answer is yes or an error, or patience ends.
func Until(ctx context.Context, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
