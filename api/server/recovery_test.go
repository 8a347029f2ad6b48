package server

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/report"
)

// reporter has one report with a picture, written by somebody who means no good.
type reporter struct {
	recorder
}

func (*reporter) GetReport(_ context.Context, id string) (api.Report, error) {
	if id != "r1" {
		return api.Report{}, api.Errorf(api.CodeNotFound, "", "there is no report %q", id)
	}
	return api.Report{ID: "r1", Kind: "test", GroupName: "<script>alert(1)</script>", Outcome: "passed",
		Machines: []api.ReportMachine{{Name: "web", Screen: true}, {Name: "db", Screen: true}}}, nil
}

func (*reporter) ReportScreen(_ context.Context, id, machine string) ([]byte, error) {
	if id != "r1" || machine != "web" {
		return nil, api.Errorf(api.CodeNotFound, "", "there is no picture of %q", machine)
	}
	return []byte("\x89PNG"), nil
}

// load gives an answer with its body.
func load(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

func TestReportPage(t *testing.T) {
	url, c := start(t, &reporter{})
	resp, page := load(t, url+"/api/v1/reports/r1/html?lang=de")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, []string{report.Policy()}, resp.Header.Values("Content-Security-Policy"), "its own style, and nothing else")
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	require.Contains(t, page, "Testfailover")
	require.Contains(t, page, "data:image/png;base64,iVBORw==")
	require.Contains(t, page, "there is no picture of &#34;db&#34;", "one that is gone by now is told")
	require.NotContains(t, page, "<script")

	for address, status := range map[string]int{"/reports/r2/html": 404, "/reports/r1/html?lang=tlh": 422, "/reports/r2": 404, "/reports/r1/screens/db": 404} {
		resp, _ := load(t, url+"/api/v1"+address)
		require.Equal(t, status, resp.StatusCode, address)
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"), address)
	}
	html, err := c.ReportPage(t.Context(), "r1", "en")
	require.NoError(t, err)
	require.Contains(t, string(html), `<html lang="en">`)
	_, err = c.ReportPage(t.Context(), "r2", "en")
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
}

func TestReportScreen(t *testing.T) {
	url, _ := start(t, &reporter{})
	resp, body := load(t, url+"/api/v1/reports/r1/screens/web")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "image/png", resp.Header.Get("Content-Type"))
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Equal(t, "\x89PNG", body)
}

// Who confirms is who is signed in, whatever the request says.
func TestConfirmationIsSigned(t *testing.T) {
	r := &recorder{}
	url, _ := start(t, r)
	resp, _ := send(t, http.MethodPost, url+"/api/v1/jobs/j1/confirm", `{"prompt":"1-before-1","note":"done"}`)
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	require.Equal(t, []any{"j1", api.Confirmation{Prompt: "1-before-1", Note: "done", By: "local"}}, r.last(t).args)
	resp, _ = send(t, http.MethodPost, url+"/api/v1/jobs/j1/confirm", `{"prompt":"1-before-1","by":"somebody else"}`)
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)
}
