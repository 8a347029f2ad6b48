package api

import (
	"fmt"
	"regexp"
	"strings"
)

// Limits of a runbook, beside those in the schema.
const (
	maxStage        = 20
	maxStages       = 20
	maxDelaySeconds = 24 * 3600
	maxActions      = 50 // over all stages
	maxArgs         = 16
	maxArgBytes     = 256
	maxActionBytes  = 2000 // of the text of a manual step
	maxScriptTime   = 24 * 3600
)

// Kinds of actions.
const (
	ActionScript = "script" // a file of the appliance's scripts directory is run
	ActionManual = "manual" // the job waits for a person
)

// What a failed script means.
const (
	OnFailureStop     = "stop"     // the order fails and is undone
	OnFailureContinue = "continue" // the report tells of it, and the order goes on
)

// Runbook says how the machines of a group come up, in a failover, a test and a failback alike: stage by stage. Without
// one, all members start at once, in the order of their stages.
type Runbook struct {
	Stages []RunbookStage `json:"stages" maxItems:"20" nullable:"false" doc:"What is wanted around the start of a stage; stages without wishes may be left out"`
}

// RunbookStage is what is done around the start of the machines of one stage: the actions before; the start; the checks,
// if they are waited for; the actions after; and the delay, unless nothing follows.
type RunbookStage struct {
	Stage int `json:"stage" minimum:"1" maximum:"20" doc:"As in the machines"`
	// WaitForChecks: in a failover and a test, checks that fail are told and do not stop the start of the next stage.
	WaitForChecks bool     `json:"waitForChecks,omitempty" doc:"Go on only when the boot checks of this stage's machines passed, or their time is over"`
	DelaySeconds  int      `json:"delaySeconds,omitempty" minimum:"0" maximum:"86400" doc:"How long to wait before the next stage begins"`
	Before        []Action `json:"before,omitempty" maxItems:"50" doc:"Before the machines of this stage start; production is off by then, but in a test"`
	After         []Action `json:"after,omitempty" maxItems:"50" doc:"When they have started"`
}

// Action is a script that the appliance runs, or a step that a person does. After a restart of the appliance the one that
// was at work is done again, so scripts must stand being run twice.
type Action struct {
	Name           string   `json:"name" minLength:"1" maxLength:"63" doc:"For people; unique in the runbook"`
	Kind           string   `json:"kind" enum:"script,manual"`
	Script         string   `json:"script,omitempty" maxLength:"64" doc:"Name of a file in the appliance's scripts directory; see list-scripts"`
	Args           []string `json:"args,omitempty" maxItems:"16" doc:"Never a secret: arguments can be seen by everybody on the appliance"`
	TimeoutSeconds int      `json:"timeoutSeconds,omitempty" minimum:"0" maximum:"86400" doc:"Of a script, which is killed then; 0 means 300"`
	Text           string   `json:"text,omitempty" maxLength:"2000" doc:"What the person is to do; the job waits until it is confirmed"`
	InTests        bool     `json:"inTests,omitempty" doc:"In test failovers too"`
	OnFailure      string   `json:"onFailure,omitempty" enum:"stop,continue" doc:"Of a script; empty means stop: the order fails and is undone"`
}

// Script is a file of the appliance's scripts directory that runbooks may name.
type Script struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

var scriptName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// Validate checks what the schema cannot say; see GroupSpec.Validate.
func (r *Runbook) Validate() error {
	if r == nil {
		return nil
	}
	if len(r.Stages) > maxStages {
		return invalid("runbook.stages", "Use fewer stages.", "%d stages are more than %d", len(r.Stages), maxStages)
	}
	stages, names := map[int]bool{}, map[string]bool{}
	for i, s := range r.Stages {
		field := fmt.Sprintf("runbook.stages[%d]", i)
		if err := s.validate(field); err != nil {
			return err
		}
		if stages[s.Stage] {
			return invalid(field+".stage", "Say everything about a stage in one place.", "stage %d is there twice", s.Stage)
		}
		stages[s.Stage] = true
		for when, actions := range map[string][]Action{"before": s.Before, "after": s.After} {
			for j, a := range actions {
				at := fmt.Sprintf("%s.%s[%d]", field, when, j)
				if err := a.validate(at); err != nil {
					return err
				}
				if names[a.Name] {
					return invalid(at+".name", "Give each action a name of its own.", "two actions are called %q", a.Name)
				}
				names[a.Name] = true
			}
		}
	}
	if len(names) > maxActions {
		return invalid("runbook.stages", "Put what belongs together into one script.", "%d actions are more than %d", len(names), maxActions)
	}
	return nil
}

func (s RunbookStage) validate(field string) error {
	if s.Stage < 1 || s.Stage > maxStage {
		return invalid(field+".stage", "Use 1 to 20.", "there is no stage %d", s.Stage)
	}
	if s.DelaySeconds < 0 || s.DelaySeconds > maxDelaySeconds {
		return invalid(field+".delaySeconds", "Use 0 to 86400.", "a delay of %d s is not possible", s.DelaySeconds)
	}
	return nil
}

func (a Action) validate(field string) error {
	if strings.TrimSpace(a.Name) != a.Name || a.Name == "" || len(a.Name) > 63 || hasControls(a.Name) {
		return invalid(field+".name", "Use 1 to 63 letters without spaces at the ends.", "%q is no name for an action", a.Name)
	}
	switch a.Kind {
	case ActionScript:
		return a.validateScript(field)
	case ActionManual:
		return a.validateManual(field)
	}
	return invalid(field+".kind", "Use script or manual.", "there is no action %q", a.Kind)
}

func (a Action) validateScript(field string) error {
	switch {
	case !scriptName.MatchString(a.Script):
		return invalid(field+".script", "Name a file of the scripts directory, without a path.", "%q is no name of a script", a.Script)
	case a.Text != "":
		return invalid(field+".text", "Leave it out: a script asks nobody.", "a script has no text")
	case a.TimeoutSeconds < 0 || a.TimeoutSeconds > maxScriptTime:
		return invalid(field+".timeoutSeconds", "Use 1 to 86400, or 0 for 300.", "a timeout of %d s is not possible", a.TimeoutSeconds)
	case a.OnFailure != "" && a.OnFailure != OnFailureStop && a.OnFailure != OnFailureContinue:
		return invalid(field+".onFailure", "Use stop or continue.", "%q is nothing that can be done", a.OnFailure)
	case len(a.Args) > maxArgs:
		return invalid(field+".args", "Use fewer.", "%d arguments are more than %d", len(a.Args), maxArgs)
	}
	for i, arg := range a.Args {
		if len(arg) > maxArgBytes || strings.ContainsRune(arg, 0) {
			return invalid(fmt.Sprintf("%s.args[%d]", field, i), "Use at most 256 bytes.", "this is no argument for a script")
		}
	}
	return nil
}

func (a Action) validateManual(field string) error {
	switch {
	case strings.TrimSpace(a.Text) == "":
		return invalid(field+".text", "Say what the person is to do.", "a manual step without a text helps nobody")
	case len(a.Text) > maxActionBytes:
		return invalid(field+".text", "Shorten it.", "a text of %d bytes is longer than %d", len(a.Text), maxActionBytes)
	case a.Script != "" || len(a.Args) > 0:
		return invalid(field+".script", "Leave script and args out, or make it a script.", "a manual step runs no script")
	case a.TimeoutSeconds != 0:
		return invalid(field+".timeoutSeconds", "Leave it out.", "a manual step waits until it is confirmed, or the job is cancelled")
	case a.OnFailure != "":
		return invalid(field+".onFailure", "Leave it out; cancel the job instead.", "a manual step cannot fail")
	}
	return nil
}

func hasControls(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// StageOf is the stage in which a machine starts.
func (m GroupMachine) StageOf() int { return max(m.Stage, 1) }
