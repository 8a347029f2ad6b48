package api

import (
	"context"
	"time"
)

// Recovery is what surrounds the start of machines: scripts, steps that wait for a person, and the reports.
type Recovery interface {
	// ListReports gives the newest first, without the output of actions.
	ListReports(ctx context.Context, q ReportQuery) (Page[Report], error)
	GetReport(ctx context.Context, id string) (Report, error)
	// ReportScreen gives the picture of a machine's screen, a PNG; CodeNotFound where there is none (any more).
	ReportScreen(ctx context.Context, report, machine string) ([]byte, error)
	// ListScripts gives what runbooks may name.
	ListScripts(ctx context.Context) ([]Script, error)
	// ConfirmJob lets a job go on that waits for a person (Job.Waiting). Confirming the same prompt again is success;
	// CodeConflict when the job waits for something else, or for nothing.
	ConfirmJob(ctx context.Context, id string, c Confirmation) (Job, error)
}

// JobStep is an entry of a job's timeline. A step that was cut by a restart of the appliance has one entry, from its
// first start to its end.
type JobStep struct {
	Step    string     `json:"step" doc:"Step of the job; what is being undone begins with \"undo \""`
	Part    string     `json:"part,omitempty" doc:"What of the step, where it has parts; the step itself has an entry of its own"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
}

// Waiting says that a job waits for a person.
type Waiting struct {
	Prompt string    `json:"prompt" doc:"Id of what is to be confirmed, unique within the job"`
	Text   string    `json:"text" doc:"What the person is asked to do"`
	Since  time.Time `json:"since"`
	// ProductionOff says that meanwhile nobody serves, or not all machines do.
	ProductionOff bool `json:"productionOff,omitempty" doc:"Production is off, at least in part, until this is confirmed or the job is cancelled"`
}

// maxNote bounds the note of a confirmation, in bytes.
const maxNote = 1000

// Confirmation is the answer of a person to Job.Waiting.
type Confirmation struct {
	Prompt string `json:"prompt" minLength:"1" maxLength:"128" doc:"As Job.Waiting says it: what is confirmed is what was read"`
	Note   string `json:"note,omitempty" maxLength:"1000" doc:"Kept in the report"`
	By     string `json:"-"` // who says so; filled by the server
}

// Validate checks what the schema says too, for callers that do not come over HTTP.
func (c Confirmation) Validate() error {
	switch {
	case c.Prompt == "":
		return invalid("prompt", "Send the prompt that the job waits for.", "the confirmation names no prompt")
	case len(c.Note) > maxNote:
		return invalid("note", "Shorten it.", "a note of %d bytes is longer than %d", len(c.Note), maxNote)
	}
	return nil
}
