package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// watched is what an appliance did between two moments.
type watched struct {
	from, until time.Time
	rss         float64 // MiB, the most that was seen
	cpu         time.Duration
	lists       map[string][]float64 // milliseconds
}

func (w *watched) p99() map[string]float64 {
	out := map[string]float64{}
	for what, took := range w.lists {
		out[what] = p99(took)
	}
	return out
}

// watch asks for the lists, one of them each time, and looks at the process from outside.
func (a *appliance) watch(ctx context.Context, group string, window, each time.Duration) (*watched, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	web, err := a.browser()
	if err != nil {
		return nil, err
	}
	go func() { _, _ = a.get(ctx, web, "events?intervalMs=500") }() // a console that is open; ends with ctx
	lists := []string{"groups", "jobs", "jobs?limit=1000", "jobs?state=active", "groups/" + group + "/points", "hosts", "overview", "machines",
		"machines?limit=1000&sort=-age", "machines?q=99", "groups?sort=-health", "alerts", "history", "groups/" + group + "/history",
		"jobs?group=" + group, "reports", "audit", "audit?q=g49"}
	for _, list := range lists {
		if _, err := a.get(ctx, web, list); err != nil { // connect
			return nil, err
		}
	}
	w := &watched{from: time.Now(), lists: map[string][]float64{}}
	before, err := a.cpu()
	if err != nil {
		return nil, err
	}
	for i := 0; time.Since(w.from) < window; i++ {
		list := lists[i%len(lists)]
		took, err := a.get(ctx, web, list)
		if err != nil {
			return nil, err
		}
		w.lists[list] = append(w.lists[list], took.Seconds()*1e3)
		rss, err := a.rss()
		if err != nil {
			return nil, err
		}
		w.rss = max(w.rss, rss)
		if err := pause(ctx, each-took); err != nil {
			return nil, err
		}
	}
	after, err := a.cpu()
	w.until, w.cpu = time.Now(), after-before
	return w, err
}

// browser keeps connections open, as the web console does.
func (a *appliance) browser() (*http.Client, error) {
	pem, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}, nil
}

// get reads an answer to its end and says how long that took.
func (a *appliance) get(ctx context.Context, web *http.Client, path string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/api/v1/"+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	start := time.Now()
	res, err := web.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return time.Since(start), nil
}

// cpu is the time that the process has had on all cores.
func (a *appliance) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // its name may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errGone
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second on Linux
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// rss is the resident memory in MiB, pages of mapped files included.
func (a *appliance) rss() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", a.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, errGone
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return float64(pages*int64(os.Getpagesize())) / (1 << 20), err
}
