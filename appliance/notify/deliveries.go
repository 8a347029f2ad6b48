package notify

import (
	"cmp"
	"context"
	"slices"

	"understudy/api"
)

// keepDeliveries bounds the records.
const keepDeliveries = 1000

// record writes down how it went with an entry; a later attempt replaces the record of an earlier one.
func (n *Notifier) record(l *line, e entry, state api.DeliveryState, a attempt) {
	m := n.message(e)
	d := api.Delivery{ID: e.ID, Time: n.Clock().UTC(), Channel: l.ID, ChannelName: l.Name, Subject: clean(m.subject(), nil), Alerts: e.Total,
		State: state, Tries: e.Tries, Answer: a.answer, Hint: a.hint()}
	if a.err != nil {
		d.Error = a.err.Error()
	}
	if state == api.DeliveryRetrying {
		d.NextTry = &e.Next
	}
	level := n.Log.Info
	if state != api.Delivered {
		level = n.Log.Warn
	}
	level("notification", "channel", l.Name, "state", state, "subject", d.Subject, "tries", d.Tries, "error", d.Error)
	n.keepDelivery(d)
}

func (n *Notifier) keepDelivery(d api.Delivery) {
	n.deliveries = slices.DeleteFunc(n.deliveries, func(old api.Delivery) bool { return old.ID == d.ID })
	n.deliveries = append(n.deliveries, d)
	n.logged("keep delivery", n.Store.Put(bucketDeliveries, d.ID, d))
	for len(n.deliveries) > keepDeliveries {
		n.logged("forget delivery", n.Store.Delete(bucketDeliveries, n.deliveries[0].ID))
		n.deliveries = n.deliveries[1:]
	}
}

func (n *Notifier) loadDeliveries() error {
	err := n.Store.Each(bucketDeliveries, func(_ string, decode func(any) error) error {
		var d api.Delivery
		err := decode(&d)
		n.deliveries = append(n.deliveries, d)
		return err
	})
	slices.SortStableFunc(n.deliveries, func(a, b api.Delivery) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	for _, d := range n.deliveries {
		if l := n.channels[d.Channel]; l != nil {
			l.Problem = d.Error // of the newest
		}
	}
	return err
}

// ListDeliveries implements api.Notifications.
func (n *Notifier) ListDeliveries(_ context.Context, q api.DeliveryQuery) (api.Page[api.Delivery], error) {
	if err := q.Validate(); err != nil {
		return api.Page[api.Delivery]{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(n.deliveries), func(d api.Delivery) bool {
		return q.Channel != "" && d.Channel != q.Channel || q.State != "" && string(d.State) != q.State
	})
	slices.Reverse(all)
	return api.PageOf(all, q.Paging), nil
}
