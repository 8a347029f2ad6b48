package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func auditOf(t *testing.T, p *people) []api.AuditEntry {
	t.Helper()
	var all []api.AuditEntry
	require.NoError(t, p.ExportAudit(t.Context(), time.Time{}, time.Time{}, func(e api.AuditEntry) error {
		all = append(all, e)
		return nil
	}))
	return all
}

func TestChangesAreWrittenDown(t *testing.T) {
	p := newPeople(t)
	r := &recorder{}
	url, c := startParts(t, Parts{Service: r, Access: p})
	u, cookie := p.add(t, "ada", api.RoleOperator)
	session := []string{"Cookie", cookieName + "=" + cookie, csrfHeader, csrfOf(cookie)}

	resp, _ := visit(t, http.MethodPost, url+"/api/v1/groups/web/failover", `{"planned":true}`, session...)
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	resp, _ = visit(t, http.MethodDelete, url+"/api/v1/groups/web", "", session...)
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
	r.err = api.Errorf(api.CodeHost, "", "kvm1 is away")
	resp, _ = visit(t, http.MethodPost, url+"/api/v1/groups/web/sync", "", session...)
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	r.err = nil
	resp, _ = visit(t, http.MethodGet, url+"/api/v1/groups", "", session...)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	_, err := c.UpdateUser(t.Context(), "ada", u.Revision, api.UserEdit{Role: api.RoleViewer})
	require.NoError(t, err)

	all := auditOf(t, p)
	require.Len(t, all, 4)
	require.Equal(t, api.AuditEntry{ID: 1, Time: p.clock(), User: "ada", Source: "127.0.0.1", Method: "session", Action: "failover", Subject: "web",
		Group: "some", Job: "some", After: json.RawMessage(`{"planned":true}`), Status: 202, Outcome: "done", Hash: all[0].Hash}, all[0])
	require.Equal(t, "remove-group", all[1].Action)
	require.Equal(t, "refused", all[1].Outcome)
	require.Equal(t, 403, all[1].Status)
	require.Equal(t, "failed", all[2].Outcome)
	require.Equal(t, "kvm1 is away", all[2].Message)
	require.Equal(t, "local", all[3].User)
	require.Contains(t, string(all[3].Before), `"role":"operator"`)
	require.Contains(t, string(all[3].After), `"role":"viewer"`)

	page, err := c.ListAudit(t.Context(), api.AuditQuery{User: "ada", Limit: 2})
	require.NoError(t, err)
	require.Equal(t, 3, page.Total)
	require.Len(t, page.Items, 2)
	var chain api.AuditChain
	require.NoError(t, c.ExportAudit(t.Context(), time.Time{}, time.Time{}, chain.Next), "the export is what was hashed")
	require.Contains(t, chain.Head(), all[3].Hash)
}

// Whatever is a secret, and whatever may be one, does not get into the log, in no field and by no detour.
func TestAuditKnowsNoSecret(t *testing.T) {
	p := newPeople(t)
	url, _ := startParts(t, Parts{Service: &recorder{}, Access: p})
	_, cookie := p.add(t, "ada", api.RoleAdministrator)
	const planted = "planted-in-the-request"
	session := []string{"Cookie", cookieName + "=" + cookie, csrfHeader, csrfOf(cookie), "If-Match", `"1"`}
	for _, c := range [][3]string{
		{"POST", "/session", `{"name":"ada","password":"` + planted + `"}`},
		{"POST", "/session", `{"name":"` + planted + `","password":"x"}`},
		{"POST", "/session", `{"name":"ada","pasword":"` + planted + `"}`},
		{"POST", "/users", `{"name":"bob","role":"viewer","password":"` + planted + `"}`},
		{"POST", "/users", `{"name":"bob","role":"viewer","passwort":"` + planted + `"}`},
		{"POST", "/users", `{"name":"bob","role":"viewer","password":["` + planted + `"]}`},
		{"POST", "/users", `{"name":{"x":"` + planted + `"}}`},
		{"POST", "/users", `["` + planted + `"]`},
		{"POST", "/users", `"` + planted + `"`},
		{"POST", "/users", planted},
		{"PUT", "/users/bob", `{"role":"viewer","password":"` + planted + `-and-more"}`},
		{"PUT", "/session/password", `{"old":"` + planted + `","new":"` + planted + `2"}`},
		{"POST", "/setup", `{"token":"` + planted + `","name":"eve","password":"` + planted + `"}`},
		{"DELETE", "/users/bob", `{"password":"` + planted + `"}`},
		{"POST", "/groups/web/sync", `{"password":"` + planted + `"}`},
		{"POST", "/hosts", `{"name":"esx1","uri":"esx://esx1/","user":"root","password":"` + planted + `"}`},
		{"POST", "/hosts/test", `{"name":"esx1","uri":"esx://esx1/","user":"root","password":"` + planted + `"}`},
		{"PUT", "/hosts/esx1", `{"name":"esx1","uri":"esx://esx1/","user":"root","passwort":"` + planted + `"}`},
	} {
		visit(t, c[0], url+"/api/v1"+c[1], c[2], session...)
	}
	all := auditOf(t, p)
	require.Len(t, all, 18)
	for _, e := range all {
		text := jsonOf(t, e)
		require.NotContains(t, text, planted, e.Action)
		require.NotContains(t, text, cookie)
		require.NotContains(t, text, csrfOf(cookie))
	}
	require.Contains(t, jsonOf(t, all[3]), `"password":"[secret]"`)
	require.Equal(t, "ada", all[0].User, "the name that was tried")
	require.Equal(t, 401, all[0].Status)
}

func TestWhatCannotBeWrittenDownIsNotDone(t *testing.T) {
	p := newPeople(t)
	r := &recorder{}
	url, c := startParts(t, Parts{Service: r, Access: full{p}})
	_, err := c.SyncNow(t.Context(), "web")
	require.Equal(t, api.CodeNoSpace, api.CodeOf(err))
	require.Empty(t, r.changes())
	resp, _ := send(t, http.MethodPost, url+"/api/v1/groups/web/sync", "", keyHeader, "k")
	require.Equal(t, http.StatusInsufficientStorage, resp.StatusCode)
	require.Empty(t, r.changes())
}

// full is an appliance whose log cannot be written.
type full struct{ *people }

func (full) BeginAudit(*api.AuditEntry) (string, error) {
	return "", api.Errorf(api.CodeNoSpace, "", "no space left")
}

func TestPanicsAreWrittenDown(t *testing.T) {
	p := newPeople(t)
	url, _ := startParts(t, Parts{Service: struct{ api.Service }{}, Access: p})
	resp, problem := send(t, http.MethodPost, url+"/api/v1/groups", `{"name":"web","sourceHost":"a","targetHost":"b","machines":[{"vm":"x"}],"policy":{"rpoSeconds":10}}`,
		keyHeader, "k", "Content-Type", "application/json")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	require.Equal(t, "the appliance failed to answer", problem.Detail)
	all := auditOf(t, p)
	require.Len(t, all, 1)
	require.Equal(t, "failed", all[0].Outcome)
}

// patient is an appliance that takes its time over an order.
type patient struct {
	*recorder
	began, goOn chan struct{}
}

func (p *patient) SyncNow(ctx context.Context, group string) (api.Job, error) {
	p.began <- struct{}{}
	<-p.goOn
	select {
	case <-ctx.Done():
		return api.Job{}, ctx.Err()
	case <-time.After(20 * time.Millisecond): // a connection that broke off is noticed meanwhile
		return p.recorder.SyncNow(ctx, group)
	}
}

func TestAnOrderIsCarriedOutWhenItsSenderIsCutOff(t *testing.T) {
	svc := &patient{recorder: &recorder{}, began: make(chan struct{}), goOn: make(chan struct{})}
	p := newPeople(t)
	url, _ := startParts(t, Parts{Service: svc, Access: p})
	url += "/api/v1/groups/web/sync"
	ctx, cutOff := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	require.NoError(t, err)
	req.Header = http.Header{"Authorization": {"Bearer " + token}, keyHeader: {"k"}}
	failed := make(chan error)
	go func() {
		_, err := http.DefaultClient.Do(req)
		failed <- err
	}()
	<-svc.began
	cutOff()
	require.ErrorIs(t, <-failed, context.Canceled)
	close(svc.goOn)
	resp, _ := send(t, http.MethodPost, url, "", keyHeader, "k")
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	require.Equal(t, "true", resp.Header.Get("Idempotency-Replayed"))
	require.Len(t, svc.changes(), 1)
	require.Len(t, auditOf(t, p), 1)
}

func TestTheSameOrderIsCarriedOutOnce(t *testing.T) {
	p := newPeople(t)
	r := &recorder{}
	url, _ := startParts(t, Parts{Service: r, Access: p})
	order := func(key, path, body string) (*http.Response, Problem) {
		return send(t, http.MethodPost, url+"/api/v1"+path, body, keyHeader, key, "Content-Type", "application/json")
	}
	first, _ := order("k1", "/groups/web/failover", `{"planned":true}`)
	require.Equal(t, http.StatusAccepted, first.StatusCode)
	again, _ := order("k1", "/groups/web/failover", `{"planned":true}`)
	require.Equal(t, http.StatusAccepted, again.StatusCode)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	for _, name := range []string{"Location", "Content-Type", "Content-Length"} {
		require.Equal(t, first.Header.Get(name), again.Header.Get(name), name)
	}
	require.Len(t, r.changes(), 1)
	require.Len(t, auditOf(t, p), 1)

	resp, problem := order("k1", "/groups/web/failover", `{"planned":false}`)
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)
	require.Equal(t, keyHeader, problem.Field)
	resp, _ = order("k1", "/groups/db/failover", `{"planned":true}`)
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)

	resp, _ = order("k2", "/groups/web/failover", `{"planned":7}`) // refused: nothing was done
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)
	resp, _ = order("k2", "/groups/web/failover", `{}`)
	require.Equal(t, http.StatusAccepted, resp.StatusCode)

	r.err = errors.New("disk full of bees") // nobody knows how far it came
	resp, _ = order("k3", "/groups/web/sync", "")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	r.err = nil
	resp, problem = order("k3", "/groups/web/sync", "")
	require.Equal(t, http.StatusConflict, resp.StatusCode)
	require.NotEmpty(t, problem.Hint)
	for _, key := range []string{strings.Repeat("k", 129), "a b", "ä"} {
		resp, problem = order(key, "/groups/web/sync", "")
		require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)
		require.Equal(t, keyHeader, problem.Field)
	}
}
