package server

import (
	"context"
	"net/http"
	"net/url"

	"understudy/api"
)

// OfChannel addresses a channel of notifications. It and the next are exported because huma passes over embedded types
// that are not.
type OfChannel struct {
	ID string `path:"id" maxLength:"128" doc:"Id or name of the channel"`
}

// OfRule addresses a rule of notifications.
type OfRule struct {
	ID string `path:"id" maxLength:"128" doc:"Id or name of the rule"`
}

// plain is a text.
type plain struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// madeNew is the answer to the making of something that can be edited.
type madeNew[T any] struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     T
}

func makeNew[T any](kind, id string, v T, revision int64, err error) (*madeNew[T], error) {
	e, err := edit(v, revision, err)
	return &madeNew[T]{Location: prefix + "/notifications/" + kind + "/" + url.PathEscape(id), ETag: e.ETag, Body: v}, err
}

// notificationRoutes are for administrators: receivers are outside, and their addresses are sometimes secrets themselves.
func (s *Server) notificationRoutes() {
	s.channelRoutes()
	s.ruleRoutes()
	n := s.notifications
	register(s, administrator.on(appliance), http.MethodGet, "/notifications/deliveries", "list-deliveries", "List what was sent, the newest first", http.StatusOK,
		func(ctx context.Context, in *api.DeliveryQuery) (*body[api.Page[api.Delivery]], error) {
			return answer(n.ListDeliveries(ctx, *in))
		})
	register(s, administrator.on(appliance), http.MethodGet, "/notifications/mib", "mib", "Give the SNMP MIB module", http.StatusOK,
		func(ctx context.Context, _ *none) (*plain, error) {
			text, err := n.MIB(ctx)
			return &plain{ContentType: "text/plain; charset=utf-8", Body: []byte(text)}, err
		})
}

func (s *Server) channelRoutes() {
	n := s.notifications
	register(s, administrator.on(appliance), http.MethodGet, "/notifications/channels", "list-channels", "List the channels of notifications", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[[]api.Channel], error) { return list(n.ListChannels(ctx)) })
	register(s, administrator.on(appliance), http.MethodPost, "/notifications/channels", "create-channel", "Add a receiver of notifications", http.StatusCreated,
		func(ctx context.Context, in *struct{ Body api.ChannelSpec }) (*madeNew[api.Channel], error) {
			c, err := n.CreateChannel(ctx, in.Body)
			return makeNew("channels", c.ID, c, c.Revision, err)
		})
	type change struct {
		OfChannel
		IfMatch
		Body api.ChannelSpec
	}
	register(s, administrator.on(appliance), http.MethodPut, "/notifications/channels/{id}", "update-channel", "Change a channel; secrets that are left out stay", http.StatusOK,
		func(ctx context.Context, in *change) (*edited[api.Channel], error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			c, err := n.UpdateChannel(ctx, in.ID, revision, in.Body)
			return edit(c, c.Revision, err)
		})
	register(s, administrator.on(appliance), http.MethodDelete, "/notifications/channels/{id}", "delete-channel", "Delete a channel that no rule names", http.StatusNoContent,
		func(ctx context.Context, in *OfChannel) (*none, error) { return nil, n.DeleteChannel(ctx, in.ID) })
	register(s, administrator.on(appliance), http.MethodPost, "/notifications/channels/{id}/test", "test-channel", "Send a test message now and tell what the receiver answered", http.StatusOK,
		func(ctx context.Context, in *OfChannel) (*body[api.Delivery], error) {
			return answer(n.TestChannel(ctx, in.ID))
		})
}

func (s *Server) ruleRoutes() {
	n := s.notifications
	register(s, administrator.on(appliance), http.MethodGet, "/notifications/rules", "list-rules", "List the rules of notifications", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[[]api.Rule], error) { return list(n.ListRules(ctx)) })
	register(s, administrator.on(appliance), http.MethodPost, "/notifications/rules", "create-rule", "Say what is told to whom", http.StatusCreated,
		func(ctx context.Context, in *struct{ Body api.RuleSpec }) (*madeNew[api.Rule], error) {
			r, err := n.CreateRule(ctx, in.Body)
			return makeNew("rules", r.ID, r, r.Revision, err)
		})
	type change struct {
		OfRule
		IfMatch
		Body api.RuleSpec
	}
	register(s, administrator.on(appliance), http.MethodPut, "/notifications/rules/{id}", "update-rule", "Change a rule", http.StatusOK,
		func(ctx context.Context, in *change) (*edited[api.Rule], error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			r, err := n.UpdateRule(ctx, in.ID, revision, in.Body)
			return edit(r, r.Revision, err)
		})
	register(s, administrator.on(appliance), http.MethodDelete, "/notifications/rules/{id}", "delete-rule", "Delete a rule", http.StatusNoContent,
		func(ctx context.Context, in *OfRule) (*none, error) { return nil, n.DeleteRule(ctx, in.ID) })
}
