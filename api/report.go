package api

import "time"

// Outcomes of reports.
const (
	ReportRunning   = "running"   // a test that is up: it has not passed before it is cleaned up
	ReportPassed    = "passed"    // done, and every check and action passed
	ReportWarning   = "warning"   // done, but not everything went well: see Problem
	ReportFailed    = "failed"    // not done, or a test whose checks failed
	ReportCancelled = "cancelled" // somebody stopped it, and it was undone
)

// Report is the record of an order that started or ended machines, kept when its group is long gone.
type Report struct {
	ID        string `json:"id" doc:"That of the job"`
	Kind      string `json:"kind" enum:"test,failover,commit,rollback,reprotect,failback,fence"`
	Group     string `json:"group" doc:"Id"`
	GroupName string `json:"groupName"`
	Job       string `json:"job"`
	CleanUp   string `json:"cleanUp,omitempty" doc:"Job that ended the test"`
	Planned   bool   `json:"planned,omitempty"`
	Force     bool   `json:"force,omitempty"`
	From      string `json:"from" doc:"Name of the host where the machines were"`
	To        string `json:"to" doc:"Name of the host where the order brings them"`

	Point      string     `json:"point,omitempty"`
	PointTaken *time.Time `json:"pointTaken,omitempty"`
	// LossSeconds is what was lost, in a failover that was not planned, or would have been.
	LossSeconds float64 `json:"lossSeconds" doc:"Age of the point when the order was given; 0 when the point is younger"`

	Started time.Time  `json:"started" doc:"When it was ordered"`
	Ended   *time.Time `json:"ended,omitempty" doc:"Of a test: when it was cleaned up"`
	Seconds float64    `json:"seconds" doc:"From the order until all checks were made (RTO); 0 when it did not come to that"`

	Outcome string `json:"outcome" enum:"running,passed,warning,failed,cancelled"`
	Problem string `json:"problem,omitempty"`
	Hint    string `json:"hint,omitempty"`

	Steps    []JobStep       `json:"steps" nullable:"false" doc:"As in the job's timeline; of a test, those of the clean-up too"`
	Machines []ReportMachine `json:"machines" nullable:"false"`
	Actions  []ReportAction  `json:"actions" nullable:"false"`
}

// ReportMachine is one machine of a report, as it came up.
type ReportMachine struct {
	Name          string        `json:"name"`
	Host          string        `json:"host" doc:"Name"`
	VM            string        `json:"vm" doc:"Machine id on the host"`
	Stage         int           `json:"stage"`
	Started       *time.Time    `json:"started,omitempty"`
	Checks        []CheckResult `json:"checks" nullable:"false"`
	Screen        bool          `json:"screen" doc:"There is a picture of its screen; the newest reports of a group have them"`
	ScreenProblem string        `json:"screenProblem,omitempty" doc:"Why there is none"`
}

// ReportAction is a script or a manual step of the runbook, as it went.
type ReportAction struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind" enum:"script,manual"`
	Stage   int       `json:"stage"`
	When    string    `json:"when" enum:"before,after"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Outcome string    `json:"outcome" enum:"passed,failed,cancelled"`
	Error   string    `json:"error,omitempty"`
	By      string    `json:"by,omitempty" doc:"Who confirmed a manual step"`
	Output  string    `json:"output,omitempty" doc:"What the script wrote, or the note of the confirmation; lists leave it out"`
}

// ReportQuery asks for reports.
type ReportQuery struct {
	Group string `query:"group" maxLength:"128" doc:"Id or name of a group, which may be gone"`
	Kind  string `query:"kind" enum:"test,failover,commit,rollback,reprotect,failback,fence" doc:"Only those of this kind"`
	Paging
	Scope Scope
}
