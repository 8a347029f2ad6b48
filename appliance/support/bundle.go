package support

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"understudy/api"
)

const (
	// maxSection bounds a file of a bundle, in bytes before compression.
	maxSection = 8 << 20
	// sectionWithin bounds how long one file may take; hosts that hang are told of as hanging.
	sectionWithin = 20 * time.Second
	// recentJobs is how many jobs are in a bundle.
	recentJobs = 500
)

// Section is a file of a support bundle. Write ends with ctx.
type Section struct {
	Name  string
	Write func(ctx context.Context, w io.Writer) error
}

// SupportBundle writes a zip file, one section after the other. A section that fails says so in errors.txt and keeps no
// other from being there.
func (s *Support) SupportBundle(ctx context.Context, w io.Writer) error {
	scrubber, err := s.scrubber()
	if err != nil {
		return err
	}
	z := zip.NewWriter(w)
	var failed bytes.Buffer
	for _, section := range s.sections() {
		text, err := s.section(ctx, section)
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), z.Close())
		}
		if err != nil {
			fmt.Fprintf(&failed, "%s: %v\n", section.Name, err)
		}
		if err := s.put(z, section.Name, scrubber.scrub(text)); err != nil {
			return err
		}
	}
	if failed.Len() > 0 {
		if err := s.put(z, "errors.txt", scrubber.scrub(failed.Bytes())); err != nil {
			return err
		}
	}
	return z.Close()
}

func (s *Support) put(z *zip.Writer, name string, text []byte) error {
	f, err := z.CreateHeader(&zip.FileHeader{Name: "understudy-support/" + name, Method: zip.Deflate, Modified: s.Clock().UTC()})
	if err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	return z.Flush() // it is on its way, whatever the next one takes
}

// section gives the text of one, as far as it came in time.
func (s *Support) section(ctx context.Context, section Section) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sectionWithin)
	defer cancel()
	text := &bounded{}
	done := make(chan error, 1)
	go func() { done <- guarded(ctx, section, text) }()
	select {
	case err := <-done:
		return text.taken(), err
	case <-ctx.Done():
		return text.taken(), errors.New("it did not end in time")
	}
}

// guarded turns a panic into an error: whoever looks for a fault has one already.
func guarded(ctx context.Context, section Section, w io.Writer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return section.Write(ctx, w)
}

// bounded keeps what fits. It may be read while somebody writes who was given up.
type bounded struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := maxSection - b.text.Len(); len(p) > room {
		b.text.Write(p[:room])
		return room, errors.New("it was cut off: too large")
	}
	return b.text.Write(p)
}

func (b *bounded) taken() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.text.Bytes())
}

// scrubber knows every secret that the appliance can read.
func (s *Support) scrubber() (scrubber, error) {
	var secrets []string
	for _, name := range s.Vault.Names() {
		if secret, err := s.Vault.Get(name); err == nil {
			secrets = append(secrets, secret.Reveal())
		}
	}
	for _, path := range s.SecretFiles {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return scrubber{}, fmt.Errorf("make sure that no secret is in the bundle: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			for _, word := range strings.Fields(line) {
				if len(word) >= 16 && !strings.HasPrefix(line, "#") {
					secrets = append(secrets, word)
				}
			}
		}
	}
	return newScrubber(secrets), nil
}

func (s *Support) sections() []Section {
	all := []Section{
		{"README.txt", s.writeReadme},
		{"about.json", asJSON(func(ctx context.Context) (any, error) { return s.Service.About(ctx) })},
		{"environment.txt", s.writeEnvironment},
		{"ready.json", asJSON(func(ctx context.Context) (any, error) { return s.Ready(ctx), nil })},
		{"secrets.json", asJSON(func(ctx context.Context) (any, error) { return s.Secrets(ctx) })},
		{"certificate.json", asJSON(func(ctx context.Context) (any, error) { return s.Certificate(ctx) })},
		{"state.json", asJSON(func(context.Context) (any, error) { return s.countState() })},
		{"hosts.json", asJSON(func(ctx context.Context) (any, error) { return s.Service.ListHosts(ctx) })},
		{"groups.json", asJSON(func(ctx context.Context) (any, error) { return s.allGroups(ctx) })},
		{"jobs.json", asJSON(func(ctx context.Context) (any, error) {
			return s.Service.ListJobs(ctx, api.JobQuery{Paging: api.Paging{Limit: recentJobs}})
		})},
		{"doctor.json", asJSON(func(ctx context.Context) (any, error) { return s.askDoctor(ctx) })},
		{"goroutines.txt", func(_ context.Context, w io.Writer) error { return pprof.Lookup("goroutine").WriteTo(w, 1) }},
	}
	all = append(all, s.Sections...)
	if s.Logs != nil {
		all = append(all, Section{"log.jsonl", func(_ context.Context, w io.Writer) error {
			_, err := s.Logs.WriteTo(w)
			return err
		}})
	}
	return all
}

func asJSON(read func(ctx context.Context) (any, error)) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		v, err := read(ctx)
		if err != nil {
			return err
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(v)
	}
}

func (s *Support) writeReadme(_ context.Context, w io.Writer) error {
	_, err := fmt.Fprintf(w, `Support bundle of an Understudy appliance, version %s, made %s.

It has what helps to find a fault: the log, hosts, groups, recent jobs, what the hosts can do, and the state of the
machine. It has names of machines, hosts and groups, and addresses. It has no password, token or key; errors.txt names
the parts that could not be collected.
`, s.Version, s.Clock().UTC().Format(time.RFC3339))
	return err
}

// countState tells how many values each bucket has.
func (s *Support) countState() (map[string]int, error) {
	names, err := s.State.Buckets()
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, name := range names {
		count[name] = 0
		if err := s.State.Each(name, func(string, func(any) error) error { count[name]++; return nil }); err != nil {
			return nil, err
		}
	}
	return count, nil
}

func (s *Support) allGroups(ctx context.Context) (all []api.Group, err error) {
	const page = 1000
	for offset := 0; ; offset += page {
		groups, err := s.Service.ListGroups(ctx, api.GroupQuery{Paging: api.Paging{Offset: offset, Limit: page}})
		if err != nil {
			return nil, err
		}
		all = append(all, groups.Items...)
		if len(groups.Items) < page {
			return all, nil
		}
	}
}

// askDoctor asks all hosts that are connected at once.
func (s *Support) askDoctor(ctx context.Context) (any, error) {
	hosts, err := s.Service.ListHosts(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sectionWithin/2)
	defer cancel()
	type diagnosis struct {
		Host   string            `json:"host"`
		Checks []api.DoctorCheck `json:"checks,omitempty"`
		Error  string            `json:"error,omitempty"`
	}
	found := make([]chan diagnosis, len(hosts))
	for i, h := range hosts {
		found[i] = make(chan diagnosis, 1)
		go func() {
			d := diagnosis{Host: h.Name, Error: h.Problem}
			if h.Connected {
				report, err := s.Service.Doctor(ctx, h.ID)
				if d.Checks = report.Checks; err != nil {
					d.Error = err.Error()
				}
			}
			found[i] <- d
		}()
	}
	all := make([]diagnosis, len(hosts))
	for i, h := range hosts {
		select {
		case all[i] = <-found[i]:
		case <-ctx.Done():
			all[i] = diagnosis{Host: h.Name, Error: "it does not answer"}
		}
	}
	return all, nil
}

// writeEnvironment tells of the machine that the appliance runs on.
func (s *Support) writeEnvironment(_ context.Context, w io.Writer) error {
	fmt.Fprintf(w, "version %s, %s, %s/%s, %d CPUs, GOMAXPROCS %d, pid %d, uid %d\n\n", s.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), runtime.GOMAXPROCS(0), os.Getpid(), os.Getuid())
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.DataDir, &disk); err == nil {
		fmt.Fprintf(w, "%s: %d of %d bytes free\n\n", s.DataDir, disk.Bavail*uint64(disk.Bsize), disk.Blocks*uint64(disk.Bsize))
	}
	for _, path := range []string{"/etc/os-release", "/proc/version", "/proc/loadavg", "/proc/uptime", "/proc/meminfo", "/proc/self/status",
		"/proc/self/limits", "/proc/self/cgroup", "/proc/pressure/io", "/proc/pressure/cpu", "/proc/pressure/memory"} {
		b, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintf(w, "# %s: %v\n\n", path, err)
			continue
		}
		fmt.Fprintf(w, "# %s\n%s\n", path, b)
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintf(w, "# build\n%s\n", build)
	}
	return nil
}
