package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func some(evil string) api.Report {
	ended := at.Add(3725 * time.Second)
	return api.Report{ID: "01R" + evil, Kind: "failover", Group: "g1" + evil, GroupName: "shop" + evil, From: "kvm1" + evil, To: "kvm2" + evil, Point: "p1" + evil, PointTaken: &at,
		LossSeconds: 12.3, Started: at, Ended: &ended, Seconds: 65, Outcome: "warning", Problem: "started, but" + evil, Hint: "Look" + evil,
		Steps: []api.JobStep{{Step: "source-off", Started: at, Ended: &ended}, {Step: "start", Part: "stage 1: DNS" + evil, Started: at}, {Step: "undo end-live" + evil, Started: at}},
		Machines: []api.ReportMachine{{Name: "web", Host: "kvm2" + evil, VM: "vm1" + evil, Stage: 1, Started: &at, Screen: true,
			Checks: []api.CheckResult{{Kind: "http", Passed: true, Message: "200" + evil, Seconds: 1}, {Kind: "tcp", Message: "refused"}}},
			{Name: "db" + evil, Stage: 2, ScreenProblem: "no signal" + evil}},
		Actions: []api.ReportAction{{Name: "DNS" + evil, Kind: "script", Stage: 1, When: "before", Started: at, Ended: ended, Outcome: "failed", Error: "exit 1" + evil,
			By: "Ada" + evil, Output: "line 1\nline 2" + evil}}}
}

func TestPage(t *testing.T) {
	for lang, want := range map[string][]string{
		"en": {`<html lang="en">`, "Failover: shop", "done, with problems", "2026-03-04 05:06:07", "12.3 s", "1 min 5 s", "1 h 2 min 5 s", "Lost (age of the point)", "line 1\nline 2", "no signal", "undo: end-live"},
		"de": {`<html lang="de">`, "ausgeführt, mit Problemen", "04.03.2026 05:06:07", "Quelle ausschalten", "Rückgängig: Replikate beenden", "Unterschrift"},
		"xx": {`<html lang="en">`},
	} {
		html, err := Page(some(""), map[string][]byte{"web": []byte("PNG")}, lang, at)
		require.NoError(t, err)
		for _, text := range append(want, `src="data:image/png;base64,UE5H"`) {
			require.Contains(t, string(html), text, lang)
		}
	}
}

// Whatever hosts, scripts and people wrote is text, and nothing of it is loaded or run.
func TestPageEscapes(t *testing.T) {
	const evil = `<script>alert(1)</script>"'><img src=http://evil/>`
	html, err := Page(some(evil), nil, "de", at)
	require.NoError(t, err)
	require.NotContains(t, string(html), "<script")
	require.NotContains(t, string(html), "<img src=http")
	require.GreaterOrEqual(t, strings.Count(string(html), "&lt;script&gt;"), 20, "each of them is there, once or more")
}

// The policy lets in the style as it stands in the page, and nothing else.
func TestPolicyFitsThePage(t *testing.T) {
	html, err := Page(some(""), nil, "en", at)
	require.NoError(t, err)
	found := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllSubmatch(html, -1)
	require.Len(t, found, 1)
	sum := sha256.Sum256(found[0][1])
	require.Contains(t, Policy(), "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	require.Contains(t, Policy(), "default-src 'none'")
	require.NotContains(t, Policy(), "unsafe")
	require.NotContains(t, string(html), "style=")
	require.Empty(t, regexp.MustCompile(`(?i)https?://|url\(|@import`).FindAll(bytes.ReplaceAll(html, []byte("http</th>"), nil), -1))
}

// Both languages have every word.
func TestLanguagesAreComplete(t *testing.T) {
	keys := regexp.MustCompile(`\{\{-?\s*(?:if [^}]*\}\}\{\{)?t "(\w+)"`).FindAllStringSubmatch(source, -1)
	require.NotEmpty(t, keys)
	for lang, w := range languages {
		for _, key := range keys {
			require.NotEmpty(t, w.text[key[1]], "%s: %s", lang, key[1])
		}
		require.Equal(t, slices.Sorted(maps.Keys(english.text)), slices.Sorted(maps.Keys(w.text)))
	}
	for kind, terms := range english.terms {
		require.Equal(t, slices.Sorted(maps.Keys(terms)), slices.Sorted(maps.Keys(german.terms[kind])), kind)
	}
}
