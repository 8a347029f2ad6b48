package notify

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/api"
)

// States of a notice.
const (
	stateFiring   = "firing"
	stateResolved = "resolved"
	stateEnded    = "ended" // of a job: nothing follows
)

// Notice is one thing that is told. The beginning and the end of an alert are two notices with one id.
type Notice struct {
	ID        string       `json:"id"`
	Kind      string       `json:"kind"`
	State     string       `json:"state"`
	Severity  api.Severity `json:"severity"`
	Time      time.Time    `json:"time"`
	Since     time.Time    `json:"since"`
	Message   string       `json:"message"`
	Hint      string       `json:"hint,omitempty"`
	Group     string       `json:"group,omitempty"`
	GroupName string       `json:"groupName,omitempty"`
	Host      string       `json:"host,omitempty"`
	HostName  string       `json:"hostName,omitempty"`
	Job       string       `json:"job,omitempty"`
	JobKind   string       `json:"jobKind,omitempty"`
}

// noticeOf makes a notice of an event that can be told.
func noticeOf(e api.Event) (Notice, bool) {
	switch {
	case e.Kind == "alert" && e.Alert != nil:
		return noticeOfAlert(e)
	case e.Kind == "job" && e.Job != nil && e.Job.State.Ended():
		return noticeOfJob(e)
	}
	return Notice{}, false
}

func noticeOfAlert(e api.Event) (Notice, bool) {
	a := *e.Alert
	n := Notice{ID: alertID(a), Kind: a.Kind, Severity: a.Severity, Time: e.Time, Since: a.Since, Message: a.Message, Hint: a.Hint,
		Group: a.Group, GroupName: a.GroupName, Host: a.Host, HostName: a.HostName}
	switch e.Action {
	case "created":
		n.State = stateFiring
	case "deleted":
		n.State, n.Hint = stateResolved, ""
	default:
		return Notice{}, false // the same alert in other words
	}
	return n, true
}

// alertID tells one alert from the next of its kind: the engine's id is the same each time something goes wrong.
func alertID(a api.ActiveAlert) string {
	if a.Since.IsZero() {
		return a.ID
	}
	return a.ID + "." + strconv.FormatInt(a.Since.UnixMilli(), 36)
}

// Jobs by who waits for their end: people wait for orders, nobody for cycles.
var (
	orders   = []string{"test", "end-test", "failover", "commit", "rollback", "reprotect", "failback", "fence"}
	recovery = []string{"failover", "commit", "rollback", "reprotect", "failback", "fence"}
	silent   = []string{"cycle", "mirror"}
)

func noticeOfJob(e api.Event) (Notice, bool) {
	j := *e.Job
	n := Notice{ID: "job-" + j.ID, State: stateEnded, Time: e.Time, Since: j.Created, Group: cmp.Or(j.Group, e.Group), Job: j.ID,
		JobKind: j.Kind, Hint: j.Hint}
	switch {
	case j.State == api.JobFailed && !slices.Contains(silent, j.Kind):
		n.Kind, n.Severity, n.Message = api.NoticeJobFailed, api.SeverityWarning, j.Kind+" failed: "+j.Error
		if slices.Contains(recovery, j.Kind) {
			n.Severity = api.SeverityCritical
		}
	case j.State == api.JobSucceeded && slices.Contains(orders, j.Kind):
		n.Kind, n.Severity, n.Message = api.NoticeJobEnded, api.SeverityInfo, j.Kind+" succeeded"
	case j.State == api.JobCancelled && slices.Contains(orders, j.Kind):
		n.Kind, n.Severity, n.Message = api.NoticeJobEnded, api.SeverityInfo, j.Kind+" was cancelled"
	default:
		return Notice{}, false
	}
	return n, true
}

// subject is the notice on one line.
func (n Notice) subject() string {
	word := string(n.Severity)
	if n.State == stateResolved {
		word = "over"
	}
	return word + ": " + n.about() + n.Message
}

// about names what the notice is about.
func (n Notice) about() string {
	if name := cmp.Or(n.GroupName, n.HostName); name != "" && !strings.Contains(n.Message, name) {
		return name + ": "
	}
	return ""
}

// maxNotices bounds what a digest tells one by one; it counts the others.
const maxNotices = 100

// message is what a channel is told at once.
type message struct {
	ID      string // the same in all attempts
	Time    time.Time
	Test    bool
	Notices []Notice // the first 100 at most
	Total   int
	Console string // URL of the console; may be empty
	From    string // name of the appliance
}

func (m message) digest() bool { return m.Total > 1 }

// subject is the message on one line.
func (m message) subject() string {
	switch {
	case m.Test:
		return "test: this is a test of a notification channel"
	case m.digest():
		return fmt.Sprintf("%s: %d notifications: %s", m.severity(), m.Total, m.counts())
	}
	return m.Notices[0].subject()
}

// severity is the worst of what began or ended; what is over counts as information.
func (m message) severity() api.Severity {
	worst := api.SeverityInfo
	for _, n := range m.Notices {
		if n.State != stateResolved && n.Severity.Reaches(worst) {
			worst = n.Severity
		}
	}
	return worst
}

// counts sums a digest up by kind, the most frequent first: "900 rpo-missed, 1 host-down, 3 over".
func (m message) counts() string {
	sums := map[string]int{}
	for _, n := range m.Notices {
		word := n.Kind
		if n.State == stateResolved {
			word = "over"
		}
		sums[word]++
	}
	words := make([]string, 0, len(sums))
	for word := range sums {
		words = append(words, word)
	}
	slices.SortFunc(words, func(a, b string) int { return cmp.Or(sums[b]-sums[a], strings.Compare(a, b)) })
	for i, word := range words {
		words[i] = fmt.Sprintf("%d %s", sums[word], word)
	}
	text := strings.Join(words, ", ")
	if m.Total > len(m.Notices) {
		text += fmt.Sprintf(", and %d more", m.Total-len(m.Notices))
	}
	return text
}

// text is the message for a person to read.
func (m message) text() string {
	var b strings.Builder
	if m.Test {
		fmt.Fprintf(&b, "This is a test of a notification channel of the appliance %s. Nothing happened.\n", m.From)
	}
	if m.digest() {
		fmt.Fprintf(&b, "%d things happened at once: %s.\n\n", m.Total, m.counts())
	}
	for i, n := range m.Notices {
		if m.digest() {
			fmt.Fprintf(&b, "%3d. %s  %s\n", i+1, n.Time.UTC().Format("15:04:05Z"), n.subject())
			continue
		}
		n.write(&b)
	}
	if more := m.Total - len(m.Notices); more > 0 && len(m.Notices) > 0 {
		fmt.Fprintf(&b, "     ... and %d more\n", more)
	}
	if m.Console != "" {
		fmt.Fprintf(&b, "\nConsole: %s\n", m.link())
	}
	fmt.Fprintf(&b, "\n-- \nUnderstudy on %s\n", m.From)
	return b.String()
}

func (n Notice) write(b *strings.Builder) {
	fmt.Fprintf(b, "%s\n\n", n.Message)
	if n.State == stateResolved {
		fmt.Fprintf(b, "It is over since %s.\n\n", stamp(n.Time))
	}
	if n.Hint != "" {
		fmt.Fprintf(b, "What to do: %s\n\n", n.Hint)
	}
	for _, fact := range [][2]string{{"Group", n.GroupName}, {"Host", n.HostName}, {"Kind", n.Kind}, {"Severity", string(n.Severity)},
		{"Job", n.Job}, {"Since", stamp(n.Since)}, {"Id", n.ID}} {
		if fact[1] != "" {
			fmt.Fprintf(b, "%-9s %s\n", fact[0]+":", fact[1])
		}
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// link leads to what the message is about.
func (m message) link() string {
	base := strings.TrimRight(m.Console, "/")
	if base == "" {
		return ""
	}
	if len(m.Notices) == 1 && m.Notices[0].Group != "" {
		return base + "/groups/" + m.Notices[0].Group
	}
	return base + "/"
}
