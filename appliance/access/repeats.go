package access

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"understudy/api"
)

// bucketOrders has what was answered to orders that came with a key, in case that they come again.
const bucketOrders = "orders"

const (
	keepOrders = 24 * time.Hour
	maxOrders  = 10_000
)

// order as it is kept, by the digest of who sent it and its key.
type order struct {
	Digest  string      `json:"digest"` // of the request
	Created time.Time   `json:"created"`
	Answer  *api.Answer `json:"answer,omitempty"` // nil: not known
}

type orders struct {
	mu    sync.Mutex
	known map[string]order
	// atWork has those that are being carried out now; a channel is closed when its order has ended.
	atWork map[string]chan struct{}
}

func (a *Access) loadOrders() error {
	a.orders.known, a.orders.atWork = map[string]order{}, map[string]chan struct{}{}
	return each(a.Store, bucketOrders, func(key string, o order) { a.orders.known[key] = o })
}

// orderKey: two people may choose the same key.
func orderKey(p api.Principal, key string) string {
	return digest(cmp.Or(p.User, p.Name) + "\n" + key)
}

// BeginOrder gives the answer to an order that was carried out before, or nil when it is to be carried out now; EndOrder
// must follow then. The request is whatever tells this order from others. An order that comes again while it is being
// carried out, as when its first connection broke off, waits for the outcome until ctx ends.
func (a *Access) BeginOrder(ctx context.Context, p api.Principal, key, request string) (*api.Answer, error) {
	key, request = orderKey(p, key), digest(request)
	for {
		answer, atWork, err := a.beginOrder(key, request)
		if atWork == nil {
			return answer, err
		}
		select {
		case <-atWork:
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeConflict, "Wait for the answer to the first one.", "this order is being taken already")
		}
	}
}

// beginOrder gives a channel when the order is being carried out now: it is closed when that has ended.
func (a *Access) beginOrder(key, request string) (answer *api.Answer, atWork <-chan struct{}, err error) {
	now := a.Clock().UTC()
	a.orders.mu.Lock()
	defer a.orders.mu.Unlock()
	a.sweepOrders(now)
	known, again := a.orders.known[key]
	switch {
	case again && known.Digest != request:
		e := api.Errorf(api.CodeInvalid, "Make a new key for each order.", "this key was used for another order")
		e.Field = "Idempotency-Key"
		return nil, nil, e
	case a.orders.atWork[key] != nil:
		return nil, a.orders.atWork[key], nil
	case again && known.Answer == nil:
		return nil, nil, api.Errorf(api.CodeConflict, "Look whether it was done. If not, send it again with a new key.", "whether this order was carried out is not known")
	case again:
		return known.Answer, nil, nil
	}
	o := order{Digest: request, Created: now}
	if err := a.Store.Put(bucketOrders, key, o); err != nil {
		return nil, nil, err
	}
	a.orders.known[key], a.orders.atWork[key] = o, make(chan struct{})
	return nil, nil, nil
}

// EndOrder keeps the answer to an order. With nil nothing was done, and the order may come again.
func (a *Access) EndOrder(p api.Principal, key string, answer *api.Answer) error {
	key = orderKey(p, key)
	a.orders.mu.Lock()
	defer a.orders.mu.Unlock()
	defer a.endWork(key)
	if answer == nil {
		delete(a.orders.known, key)
		return a.Store.Delete(bucketOrders, key)
	}
	o := a.orders.known[key]
	o.Answer = answer
	if err := a.Store.Put(bucketOrders, key, o); err != nil {
		return err // as long as it is not durable, the outcome is not known
	}
	a.orders.known[key] = o
	return nil
}

// LoseOrder says that nobody knows whether an order was carried out.
func (a *Access) LoseOrder(p api.Principal, key string) {
	a.orders.mu.Lock()
	defer a.orders.mu.Unlock()
	a.endWork(orderKey(p, key))
}

// endWork lets those go on who wait for an order. The lock is held.
func (a *Access) endWork(key string) {
	if atWork := a.orders.atWork[key]; atWork != nil {
		close(atWork)
		delete(a.orders.atWork, key)
	}
}

// sweepOrders forgets old ones, and the oldest when there are too many. The lock is held.
func (a *Access) sweepOrders(now time.Time) {
	var old, rest []string
	for key, o := range a.orders.known {
		switch {
		case a.orders.atWork[key] != nil:
		case now.Sub(o.Created) >= keepOrders:
			old = append(old, key)
		default:
			rest = append(rest, key)
		}
	}
	if len(rest) >= maxOrders {
		slices.SortFunc(rest, func(x, y string) int { return a.orders.known[x].Created.Compare(a.orders.known[y].Created) })
		old = append(old, rest[:len(rest)-maxOrders+1]...)
	}
	for _, key := range old {
		if err := a.Store.Delete(bucketOrders, key); err != nil {
			a.Log.Warn("old order stays", "error", err)
			return
		}
		delete(a.orders.known, key)
	}
}
