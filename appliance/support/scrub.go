package support

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"understudy/api"
)

// Nothing that is put into a bundle should hold a secret to begin with: the answers of the API have none, and the log has
// none. The scrubber is the second lock on that door, for what a driver, a person or a bug put where it does not belong.

// shapes of secrets: with is put in place of what looks like shape, in texts that have one of the words.
var shapes = []struct {
	words []string // lower case
	shape *regexp.Regexp
	with  string
}{
	{[]string{"://"}, regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^/\s"'@]*@`), "${1}" + api.Redacted + "@"},
	{[]string{"bearer", "basic"}, regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "${1} " + api.Redacted},
	{[]string{"__host-"}, regexp.MustCompile(`__Host-[a-z]+=[^;\s"']+`), "__Host-cookie=" + api.Redacted},
	{[]string{"pass", "secret", "token", "community", "key"}, regexp.MustCompile(`(?i)(\\?["']?\b[a-z_-]*(?:password|passphrase|passwd|secret|token|community|private_?key|api_?key)\\?["']?\s*[:=]\s*)(\\?"(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,;&}"'\\]+)`),
		"${1}" + `"` + api.Redacted + `"`},
	{[]string{"age-secret"}, regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]+`), api.Redacted},
	{[]string{"$argon2"}, regexp.MustCompile(`\$argon2[a-z]*\$[^\s"']+`), api.Redacted},
}

// privateKey may have its lines apart, or within one as \n.
var privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)

// scrubber takes secrets out of text.
type scrubber struct{ known [][]byte }

// newScrubber knows these secrets in every form in which they may have been written down.
func newScrubber(secrets []string) scrubber {
	var s scrubber
	for _, secret := range secrets {
		if len(secret) < 4 {
			continue // it would take letters out of words; its shape has to do
		}
		forms := map[string]bool{secret: true, url.QueryEscape(secret): true, url.PathEscape(secret): true,
			base64.StdEncoding.EncodeToString([]byte(secret)): true, base64.RawURLEncoding.EncodeToString([]byte(secret)): true}
		for range 2 { // within JSON, also of an error that quotes it
			for _, form := range slices.Collect(maps.Keys(forms)) {
				for _, quoted := range quotes(form) {
					forms[quoted] = true
				}
			}
		}
		for form := range forms {
			s.known = append(s.known, []byte(form))
		}
	}
	slices.SortFunc(s.known, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) }) // a part must not go before the whole
	return s
}

// quotes gives the insides of a text in quotation marks, in the ways of JSON and of Go.
func quotes(text string) []string {
	html, _ := json.Marshal(text) // a string can always be
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text)
	line := strings.TrimSuffix(plain.String(), "\n")
	ours := strconv.Quote(text)
	return []string{string(html[1 : len(html)-1]), line[1 : len(line)-1], ours[1 : len(ours)-1]}
}

func (s scrubber) scrub(text []byte) []byte {
	for _, k := range s.known {
		text = bytes.ReplaceAll(text, k, []byte(api.Redacted))
	}
	text = privateKey.ReplaceAll(text, []byte(api.Redacted))
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		lower := bytes.ToLower(line) // looking for words first is much cheaper than looking for shapes
		for _, s := range shapes {
			if slices.ContainsFunc(s.words, func(word string) bool { return bytes.Contains(lower, []byte(word)) }) {
				line = s.shape.ReplaceAll(line, []byte(s.with))
			}
		}
		out = append(out, line...)
	}
	return out
}
