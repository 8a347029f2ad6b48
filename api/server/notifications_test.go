package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
)

var _ api.Notifications = (*recorder)(nil)

func (r *recorder) ListChannels(context.Context) ([]api.Channel, error) {
	return answerTo[[]api.Channel](r, "ListChannels")
}

func (r *recorder) CreateChannel(_ context.Context, spec api.ChannelSpec) (api.Channel, error) {
	return answerTo[api.Channel](r, "CreateChannel", spec)
}

func (r *recorder) UpdateChannel(_ context.Context, id string, revision int64, spec api.ChannelSpec) (api.Channel, error) {
	return answerTo[api.Channel](r, "UpdateChannel", id, revision, spec)
}

func (r *recorder) DeleteChannel(_ context.Context, id string) error {
	_, err := answerTo[struct{}](r, "DeleteChannel", id)
	return err
}

func (r *recorder) TestChannel(_ context.Context, id string) (api.Delivery, error) {
	return answerTo[api.Delivery](r, "TestChannel", id)
}

func (r *recorder) ListRules(context.Context) ([]api.Rule, error) {
	return answerTo[[]api.Rule](r, "ListRules")
}

func (r *recorder) CreateRule(_ context.Context, spec api.RuleSpec) (api.Rule, error) {
	return answerTo[api.Rule](r, "CreateRule", spec)
}

func (r *recorder) UpdateRule(_ context.Context, id string, revision int64, spec api.RuleSpec) (api.Rule, error) {
	return answerTo[api.Rule](r, "UpdateRule", id, revision, spec)
}

func (r *recorder) DeleteRule(_ context.Context, id string) error {
	_, err := answerTo[struct{}](r, "DeleteRule", id)
	return err
}

func (r *recorder) ListDeliveries(_ context.Context, q api.DeliveryQuery) (api.Page[api.Delivery], error) {
	return answerTo[api.Page[api.Delivery]](r, "ListDeliveries", q)
}

func (r *recorder) MIB(context.Context) (string, error) {
	return answerTo[string](r, "MIB")
}

func startNotices(t *testing.T) (string, *client.Client, *recorder) {
	t.Helper()
	r := &recorder{}
	ts := httptest.NewServer(New(Parts{Service: r, Notifications: r}, Options{Token: token, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(ts.Close)
	c, err := client.New(ts.URL, client.Options{Token: token})
	require.NoError(t, err)
	return ts.URL, c, r
}

func TestClientMirrorsNotifications(t *testing.T) {
	_, c, r := startNotices(t)
	service := reflect.TypeFor[api.Notifications]()
	for i := range service.NumMethod() {
		method := service.Method(i)
		t.Run(method.Name, func(t *testing.T) {
			in := []reflect.Value{reflect.ValueOf(t.Context())}
			var args []any
			for j := 1; j < method.Type.NumIn(); j++ {
				arg := reflect.New(method.Type.In(j)).Elem()
				fill(arg)
				in, args = append(in, arg), append(args, arg.Interface())
			}
			out := reflect.ValueOf(c).MethodByName(method.Name).Call(in)
			require.Nil(t, out[len(out)-1].Interface())
			last := r.last(t)
			require.Equal(t, method.Name, last.method)
			require.Equal(t, args, last.args)
			if len(out) == 2 {
				want := reflect.New(reflect.TypeOf(last.result)).Elem()
				want.Set(reflect.ValueOf(last.result))
				forgetSecrets(want)
				require.Equal(t, want.Interface(), out[0].Interface())
			}
		})
	}
}

// forgetSecrets empties all secrets: no answer has any.
func forgetSecrets(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[api.Secret]():
		v.SetZero()
	case v.Type() == reflect.TypeFor[time.Time]():
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			forgetSecrets(v.Field(i))
		}
	case v.Kind() == reflect.Pointer && !v.IsNil():
		forgetSecrets(v.Elem())
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			forgetSecrets(v.Index(i))
		}
	}
}

// Secrets go in, and nothing brings them out again.
func TestSecretsOfChannelsGoOneWay(t *testing.T) {
	url, c, r := startNotices(t)
	secret := api.NewSecret("correct-horse-battery")
	for _, spec := range []api.ChannelSpec{
		{Name: "a", Kind: "email", Email: &api.EmailChannel{Host: "mail", Port: 25, Security: "tls", User: "u", Password: secret, From: "a@b", To: []string{"c@d"}}},
		{Name: "a", Kind: "snmp", SNMP: &api.SNMPChannel{Host: "nms", Port: 162, Version: "v2c", Community: secret}},
		{Name: "a", Kind: "snmp", SNMP: &api.SNMPChannel{Host: "nms", Port: 162, Version: "v3", AuthPassword: secret, PrivPassword: secret}},
		{Name: "a", Kind: "webhook", Webhook: &api.WebhookChannel{URL: "https://hooks", Secret: secret}},
	} {
		_, err := c.CreateChannel(t.Context(), spec)
		require.NoError(t, err)
		require.Equal(t, []any{spec}, r.last(t).args)
		encoded, err := json.Marshal(api.Channel{ChannelSpec: spec})
		require.NoError(t, err)
		require.NotContains(t, string(encoded), secret.Reveal())
	}
	resp, _ := send(t, http.MethodPut, url+"/api/v1/notifications/rules/a", `{"name":"a","enabled":true,"channels":["b"]}`)
	require.Equal(t, http.StatusPreconditionRequired, resp.StatusCode)
	resp, p := send(t, http.MethodPost, url+"/api/v1/notifications/channels", `{"name":"a","enabled":true,"kind":"email","email":{"host":"mail","port":70000,"security":"tls","from":"a@b","to":["c@d"]}}`)
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)
	require.Equal(t, "email.port", p.Field)
}
