package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"understudy/api"
)

// loadSettings reads channels and rules.
func (n *Notifier) loadSettings() error {
	if err := n.Store.Each(bucketChannels, func(key string, decode func(any) error) error {
		var c api.Channel
		err := decode(&c)
		c.ID = key
		n.channels[key] = newLine(c)
		return err
	}); err != nil {
		return err
	}
	if err := n.Store.Each(bucketRules, func(key string, decode func(any) error) error {
		var r api.Rule
		err := decode(&r)
		r.ID = key
		n.rules[key] = r
		return err
	}); err != nil {
		return err
	}
	return n.loadIdentity()
}

// settingID makes eight hexadecimal digits.
func settingID() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// view is a channel as its administrator sees it.
func (n *Notifier) view(l *line) api.Channel {
	c := l.Channel
	c.ChannelSpec = cloneSpec(c.ChannelSpec)
	c.Waiting = 0
	for _, e := range l.entries {
		c.Waiting += e.Total
	}
	if c.SNMP != nil {
		c.SNMP.EngineID = ""
		if c.SNMP.Version == "v3" && !c.SNMP.Inform {
			c.SNMP.EngineID = hex.EncodeToString(n.identity.engine())
		}
	}
	return c
}

// ListChannels implements api.Notifications.
func (n *Notifier) ListChannels(context.Context) ([]api.Channel, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := []api.Channel{}
	for _, l := range n.channels {
		list = append(list, n.view(l))
	}
	slices.SortFunc(list, func(a, b api.Channel) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return list, nil
}

// CreateChannel implements api.Notifications.
func (n *Notifier) CreateChannel(_ context.Context, spec api.ChannelSpec) (api.Channel, error) {
	if err := spec.Validate(); err != nil {
		return api.Channel{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.channels) >= api.MaxChannels {
		return api.Channel{}, api.Errorf(api.CodeConflict, "Delete one, or let one channel serve several receivers.", "there are %d channels already", api.MaxChannels)
	}
	if err := n.freeName(spec.Name, ""); err != nil {
		return api.Channel{}, err
	}
	return n.keepChannel(settingID(), 1, spec, nil)
}

func (n *Notifier) freeName(name, id string) error {
	for _, l := range n.channels {
		if l.Name == name && l.ID != id {
			return taken("channel", name)
		}
	}
	return nil
}

func taken(what, name string) error {
	e := api.Errorf(api.CodeConflict, "Choose another name.", "there is a %s %s already", what, name)
	e.Field = "name"
	return e
}

// keepChannel seals the secrets, and then keeps the channel. A secret is new, or there already.
func (n *Notifier) keepChannel(id string, revision int64, spec api.ChannelSpec, before *api.ChannelSpec) (api.Channel, error) {
	spec = cloneSpec(spec)
	fresh := map[string]api.Secret{}
	for _, s := range secretsOf(&spec) {
		had := false
		if before != nil && before.Kind == spec.Kind {
			for _, old := range secretsOf(before) {
				had = had || old.field == s.field && *old.set
			}
		}
		*s.set = had
		if !s.value.IsZero() {
			fresh[s.field], *s.set = *s.value, true
			*s.value = api.Secret{}
		}
		if !s.wanted {
			*s.set = false
			delete(fresh, s.field)
		} else if !*s.set {
			e := api.Errorf(api.CodeInvalid, "Give it; it is kept sealed and never shown.", "%s is missing", s.field)
			e.Field = s.field
			return api.Channel{}, e
		}
	}
	for field, value := range fresh {
		if err := n.Secrets.Put(secretName(id, field), value); err != nil {
			return api.Channel{}, fmt.Errorf("keep %s: %w", field, err)
		}
	}
	c := api.Channel{ChannelSpec: spec, ID: id, Revision: revision}
	if err := n.Store.Put(bucketChannels, id, c); err != nil {
		return api.Channel{}, err
	}
	if before != nil {
		n.forgetSecrets(id, *before, spec)
	}
	l := n.channels[id]
	if l == nil {
		l = newLine(c)
		n.channels[id] = l
		n.start(l)
	}
	problem := l.Problem
	l.Channel = c
	l.Problem = problem
	// Whoever changes a channel wants to see at once whether that has helped.
	if len(l.entries) > 0 {
		l.entries[0].Next = n.Clock()
	}
	l.wakeUp()
	return n.view(l), nil
}

// UpdateChannel implements api.Notifications.
func (n *Notifier) UpdateChannel(_ context.Context, id string, revision int64, spec api.ChannelSpec) (api.Channel, error) {
	if err := spec.Validate(); err != nil {
		return api.Channel{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l, err := n.line(id)
	if err != nil {
		return api.Channel{}, err
	}
	if l.Revision != revision {
		return api.Channel{}, stale("channel", l.Name, l.Revision, revision)
	}
	if err := n.freeName(spec.Name, l.ID); err != nil {
		return api.Channel{}, err
	}
	before := l.ChannelSpec
	if goesElsewhere(before, spec) && !hasAllSecrets(spec) {
		// Otherwise whoever may edit channels could have the password sent to a server of their own.
		return api.Channel{}, api.Errorf(api.CodeInvalid, "Enter the password again with the new address.",
			"the password of channel %s is for another receiver", l.Name)
	}
	return n.keepChannel(l.ID, revision+1, spec, &before)
}

func stale(what, name string, now, given int64) error {
	return api.Errorf(api.CodeStale, "Read it again, and decide again.", "%s %s has revision %d now, not %d", what, name, now, given)
}

// line finds a channel by id or name.
func (n *Notifier) line(id string) (*line, error) {
	if l, ok := n.channels[id]; ok {
		return l, nil
	}
	for _, l := range n.channels {
		if l.Name == id {
			return l, nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "List the channels to see which there are.", "there is no channel %q", id)
}

// DeleteChannel implements api.Notifications.
func (n *Notifier) DeleteChannel(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, err := n.line(id)
	if err != nil {
		return err
	}
	for _, r := range n.rules {
		if slices.Contains(r.Channels, l.ID) {
			return api.Errorf(api.CodeInUse, "Change or delete the rule first.", "rule %s sends to channel %s", r.Name, l.Name)
		}
	}
	if err := n.Store.Delete(bucketChannels, l.ID); err != nil {
		return err
	}
	delete(n.channels, l.ID)
	if l.stop != nil {
		l.stop()
	}
	n.forgetSecrets(l.ID, l.ChannelSpec, api.ChannelSpec{})
	for _, e := range l.entries {
		n.logged("forget notification", n.Store.Delete(bucketQueue, e.key(l.ID)))
	}
	return nil
}

// TestChannel implements api.Notifications.
func (n *Notifier) TestChannel(ctx context.Context, id string) (api.Delivery, error) {
	n.mu.Lock()
	l, err := n.line(id)
	if err != nil {
		n.mu.Unlock()
		return api.Delivery{}, err
	}
	channel, spec, name := l.ID, l.ChannelSpec, l.Name
	now := n.Clock().UTC()
	m := message{ID: newID(now), Time: now, Test: true, Total: 0, Console: n.ConsoleURL, From: n.Hostname}
	n.mu.Unlock()
	a := n.try(ctx, channel, spec, m)
	if err := ctx.Err(); err != nil && a.err != nil {
		return api.Delivery{}, err
	}
	d := api.Delivery{ID: m.ID, Time: n.Clock().UTC(), Channel: channel, ChannelName: name, Subject: m.subject(), Test: true, State: api.Delivered,
		Tries: 1, Answer: a.answer, Hint: a.hint()}
	if a.err != nil {
		d.State, d.Error = api.DeliveryFailed, a.err.Error()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keepDelivery(d)
	return d, nil
}

// ListRules implements api.Notifications.
func (n *Notifier) ListRules(context.Context) ([]api.Rule, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := []api.Rule{}
	for _, r := range n.rules {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b api.Rule) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return list, nil
}

// checkRule looks at what only the appliance knows.
func (n *Notifier) checkRule(id string, spec *api.RuleSpec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	spec.Channels = slices.Clone(spec.Channels)
	for i, channel := range spec.Channels {
		l, err := n.line(channel)
		if err != nil {
			e := api.Errorf(api.CodeInvalid, "List the channels to see which there are.", "there is no channel %q", channel)
			e.Field = fmt.Sprintf("channels[%d]", i)
			return e
		}
		spec.Channels[i] = l.ID
	}
	for _, r := range n.rules {
		if r.Name == spec.Name && r.ID != id {
			return taken("rule", spec.Name)
		}
	}
	return nil
}

// groupIDs replaces names of groups by ids: a name may be given to another group later.
func (n *Notifier) groupIDs(ctx context.Context, spec *api.RuleSpec) error {
	n.mu.Lock()
	names := n.names
	n.mu.Unlock()
	spec.Groups = slices.Clone(spec.Groups)
	for i, id := range spec.Groups {
		g, err := names.GetGroup(ctx, id)
		if err != nil {
			e := api.Errorf(api.CodeInvalid, "List the groups to see which there are.", "there is no group %q", id)
			e.Field = fmt.Sprintf("groups[%d]", i)
			return e
		}
		spec.Groups[i] = g.ID
	}
	return nil
}

// CreateRule implements api.Notifications.
func (n *Notifier) CreateRule(ctx context.Context, spec api.RuleSpec) (api.Rule, error) {
	if err := n.groupIDs(ctx, &spec); err != nil {
		return api.Rule{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.rules) >= api.MaxRules {
		return api.Rule{}, api.Errorf(api.CodeConflict, "Delete one, or let one rule name several kinds.", "there are %d rules already", api.MaxRules)
	}
	return n.keepRule(api.Rule{RuleSpec: spec, ID: settingID(), Revision: 1})
}

func (n *Notifier) keepRule(r api.Rule) (api.Rule, error) {
	if err := n.checkRule(r.ID, &r.RuleSpec); err != nil {
		return api.Rule{}, err
	}
	if err := n.Store.Put(bucketRules, r.ID, r); err != nil {
		return api.Rule{}, err
	}
	n.rules[r.ID] = r
	return r, nil
}

// UpdateRule implements api.Notifications.
func (n *Notifier) UpdateRule(ctx context.Context, id string, revision int64, spec api.RuleSpec) (api.Rule, error) {
	if err := n.groupIDs(ctx, &spec); err != nil {
		return api.Rule{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r, err := n.rule(id)
	if err != nil {
		return api.Rule{}, err
	}
	if r.Revision != revision {
		return api.Rule{}, stale("rule", r.Name, r.Revision, revision)
	}
	return n.keepRule(api.Rule{RuleSpec: spec, ID: r.ID, Revision: revision + 1})
}

func (n *Notifier) rule(id string) (api.Rule, error) {
	if r, ok := n.rules[id]; ok {
		return r, nil
	}
	for _, r := range n.rules {
		if r.Name == id {
			return r, nil
		}
	}
	return api.Rule{}, api.Errorf(api.CodeNotFound, "List the rules to see which there are.", "there is no rule %q", id)
}

// DeleteRule implements api.Notifications.
func (n *Notifier) DeleteRule(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r, err := n.rule(id)
	if err != nil {
		return err
	}
	if err := n.Store.Delete(bucketRules, r.ID); err != nil {
		return err
	}
	delete(n.rules, r.ID)
	return nil
}
