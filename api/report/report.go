// Package report writes an api.Report as one page that stands alone: for the auditor, to be printed or put away. It owns
// the words of that page, in English and German, and nothing else; it asks nobody for anything.
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"
	"time"

	"understudy/api"
)

//go:embed page.html
var source string

//go:embed style.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"t": func(string) string { return "" }, "term": func(string, string) string { return "" }, "time": func(time.Time) string { return "" },
	"clock": func(time.Time) string { return "" }, "span": func(float64) string { return "" }, "took": func(api.JobStep) string { return "" },
}).Parse(strings.Replace(source, "STYLE", style, 1)))

// Policy is the Content-Security-Policy of the page: its own style and pictures, and nothing from anywhere.
func Policy() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// Languages of the page; the first is for who wants none of them.
var Languages = []string{"en", "de"}

// Page writes the report. screens has the pictures that are to be shown, PNGs by the name of the machine; printed is the
// time that is told as that of the printing.
func Page(r api.Report, screens map[string][]byte, lang string, printed time.Time) ([]byte, error) {
	w, known := languages[lang]
	if !known {
		lang = Languages[0]
		w = languages[lang]
	}
	pictures := map[string]template.URL{}
	for name, png := range screens {
		pictures[name] = template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(png))
	}
	p, err := page.Clone()
	if err != nil {
		return nil, err
	}
	p.Funcs(template.FuncMap{
		"t":    func(key string) string { return w.text[key] },
		"term": w.term,
		"time": func(t time.Time) string { return t.UTC().Format(w.time) },
		"clock": func(t time.Time) string {
			return t.UTC().Format("15:04:05")
		},
		"span": span,
		"took": func(s api.JobStep) string {
			if s.Ended == nil {
				return ""
			}
			return span(s.Ended.Sub(s.Started).Seconds())
		},
	})
	var b bytes.Buffer
	err = p.Execute(&b, struct {
		api.Report
		Lang     string
		Pictures map[string]template.URL
		Printed  time.Time
	}{r, lang, pictures, printed})
	return b.Bytes(), err
}

// span is a duration for people, in seconds with one digit below a minute.
func span(seconds float64) string {
	if seconds < 60 {
		return fmt.Sprintf("%.1f s", seconds)
	}
	whole := int64(seconds + 0.5)
	text := fmt.Sprintf("%d min %d s", whole/60%60, whole%60)
	if h := whole / 3600; h > 0 {
		text = fmt.Sprintf("%d h %s", h, text)
	}
	return text
}
