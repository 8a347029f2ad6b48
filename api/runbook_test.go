package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func script(name string) api.Action {
	return api.Action{Name: name, Kind: "script", Script: "dns.sh", Args: []string{"up"}, TimeoutSeconds: 5, OnFailure: "continue"}
}

func manual(name string) api.Action { return api.Action{Name: name, Kind: "manual", Text: "Switch it"} }

func TestRunbookIsValidated(t *testing.T) {
	require.NoError(t, (*api.Runbook)(nil).Validate())
	good := func() *api.Runbook {
		return &api.Runbook{Stages: []api.RunbookStage{
			{Stage: 2, DelaySeconds: 60, WaitForChecks: true, Before: []api.Action{script("a"), manual("b")}},
			{Stage: 1, After: []api.Action{script("c")}},
		}}
	}
	require.NoError(t, good().Validate())
	action := func(change func(*api.Action)) func(*api.Runbook) {
		return func(r *api.Runbook) { change(&r.Stages[0].Before[0]) }
	}
	person := func(change func(*api.Action)) func(*api.Runbook) {
		return func(r *api.Runbook) { change(&r.Stages[0].Before[1]) }
	}
	const first = "runbook.stages[0].before[0]."
	const second = "runbook.stages[0].before[1]."
	for field, changes := range map[string][]func(*api.Runbook){
		"runbook.stages[0].stage": {
			func(r *api.Runbook) { r.Stages[0].Stage = 0 },
			func(r *api.Runbook) { r.Stages[0].Stage = 21 },
		},
		"runbook.stages[1].stage":        {func(r *api.Runbook) { r.Stages[1].Stage = 2 }},
		"runbook.stages[0].delaySeconds": {func(r *api.Runbook) { r.Stages[0].DelaySeconds = -1 }, func(r *api.Runbook) { r.Stages[0].DelaySeconds = 86401 }},
		"runbook.stages": {
			func(r *api.Runbook) { r.Stages = make([]api.RunbookStage, 21) },
			func(r *api.Runbook) {
				for i := range 51 {
					r.Stages[0].After = append(r.Stages[0].After, script(fmt.Sprint("s", i)))
				}
			},
		},
		first + "name": {
			action(func(a *api.Action) { a.Name = "" }),
			action(func(a *api.Action) { a.Name = " a" }),
			action(func(a *api.Action) { a.Name = "a\nb" }),
			action(func(a *api.Action) { a.Name = strings.Repeat("x", 64) }),
		},
		"runbook.stages[1].after[0].name": {func(r *api.Runbook) { r.Stages[1].After[0].Name = "b" }},
		first + "kind":                    {action(func(a *api.Action) { a.Kind = "prayer" })},
		first + "script": {
			action(func(a *api.Action) { a.Script = "" }),
			action(func(a *api.Action) { a.Script = "../etc/passwd" }),
			action(func(a *api.Action) { a.Script = "a/b" }),
			action(func(a *api.Action) { a.Script = ".." }),
			action(func(a *api.Action) { a.Script = "-rf" }),
			action(func(a *api.Action) { a.Script = "a\x00b" }),
		},
		first + "text":           {action(func(a *api.Action) { a.Text = "why" })},
		first + "timeoutSeconds": {action(func(a *api.Action) { a.TimeoutSeconds = -1 }), action(func(a *api.Action) { a.TimeoutSeconds = 86401 })},
		first + "onFailure":      {action(func(a *api.Action) { a.OnFailure = "panic" })},
		first + "args":           {action(func(a *api.Action) { a.Args = make([]string, 17) })},
		first + "args[1]": {
			action(func(a *api.Action) { a.Args = []string{"", "\x00"} }),
			action(func(a *api.Action) { a.Args = []string{"", strings.Repeat("x", 257)} }),
		},
		second + "text":           {person(func(a *api.Action) { a.Text = " \n" }), person(func(a *api.Action) { a.Text = strings.Repeat("x", 2001) })},
		second + "script":         {person(func(a *api.Action) { a.Script = "x" }), person(func(a *api.Action) { a.Args = []string{"x"} })},
		second + "timeoutSeconds": {person(func(a *api.Action) { a.TimeoutSeconds = 1 })},
		second + "onFailure":      {person(func(a *api.Action) { a.OnFailure = "stop" })},
	} {
		for i, change := range changes {
			r := good()
			change(r)
			var e *api.Error
			require.ErrorAs(t, r.Validate(), &e, "%s %d", field, i)
			require.Equal(t, field, e.Field, "%d: %s", i, e.Message)
			require.NotEmpty(t, e.Hint)
		}
	}
}

func TestConfirmationIsValidated(t *testing.T) {
	require.NoError(t, api.Confirmation{Prompt: "a"}.Validate())
	for field, c := range map[string]api.Confirmation{"prompt": {}, "note": {Prompt: "a", Note: strings.Repeat("x", 1001)}} {
		var e *api.Error
		require.ErrorAs(t, c.Validate(), &e)
		require.Equal(t, field, e.Field)
	}
}
