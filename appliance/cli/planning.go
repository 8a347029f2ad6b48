package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

// groupPreflight tells all that stands against a group before it is made.
func (a *app) groupPreflight() *cobra.Command {
	var s specFlags
	cmd := a.command("preflight NAME", "Tell all that stands against a group, and make nothing; takes what create takes", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			spec, err := s.spec(args[0], a.in)
			if err != nil {
				return err
			}
			p, err := c.Preflight(ctx, spec)
			if err != nil {
				return err
			}
			if err := a.show(p, func(w io.Writer) { writePreflight(w, p) }); err != nil {
				return err
			}
			if !p.Ready {
				return fmt.Errorf("group %s: a check %w", args[0], errFailed)
			}
			return nil
		})
	s.add(cmd.Flags())
	return cmd
}

func writePreflight(w io.Writer, p api.Preflight) {
	t := newTable(w, "LEVEL", "CHECK", "FIELD", "WHAT", "WHAT TO DO")
	for _, c := range p.Checks {
		t.row(c.Level, c.Code, orDash(c.Field), c.Message, c.Hint)
	}
	t.flush()
	fmt.Fprintf(w, "\n%s to copy at first\n", size(p.Bytes))
}

// groupEdit changes policy, checks, stages, disks and runbook together: all of it, or nothing.
func (a *app) groupEdit() *cobra.Command {
	var p policyFlags
	var checks, none, stages, out, back, convert, asIs []string
	var runbook string
	cmd := a.command("edit GROUP", "Change policy, checks, stages, disks and runbook of a group at once", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.GetGroup(ctx, args[0])
			if err != nil {
				return err
			}
			edit := api.GroupEdit{Policy: g.Policy}
			changed, err := p.apply(&edit.Policy)
			if err != nil {
				return err
			}
			if edit.Machines, err = checkEdits(g, checks, none); err != nil {
				return err
			}
			if edit.Machines, err = stageEdits(g, edit.Machines, stages); err != nil {
				return err
			}
			if edit.Machines, err = diskEdits(g, edit.Machines, out, back); err != nil {
				return err
			}
			if edit.Machines, err = convertEdits(g, edit.Machines, convert, asIs); err != nil {
				return err
			}
			if edit.Runbook, err = readRunbook(runbook, a.in); err != nil {
				return err
			}
			if !changed && len(edit.Machines) == 0 && edit.Runbook == nil {
				return wrong("nothing is to be changed: give flags of the policy, --check, --no-checks, --stage, --leave-out, --take-back, --convert, --no-convert or --runbook")
			}
			if err := edit.Validate(); err != nil {
				return err
			}
			if g, err = c.UpdateGroup(ctx, g.ID, g.Revision, edit); err != nil {
				return err
			}
			return a.showGroup(g)
		})
	p.add(cmd.Flags())
	cmd.Flags().StringArrayVar(&checks, "check", nil,
		"what must answer after a start, as for create; replaces the checks that the machine has; repeat it")
	cmd.Flags().StringArrayVar(&stages, "stage", nil, "start group of a machine, as MACHINE=NUMBER; repeat it")
	cmd.Flags().StringArrayVar(&out, "leave-out", nil, "disk that is not protected any more, as MACHINE=DISK; older points keep it; repeat it")
	cmd.Flags().StringArrayVar(&back, "take-back", nil, "disk that was left out and is protected again, as MACHINE=DISK; the next cycle copies it whole; repeat it")
	cmd.Flags().StringArrayVar(&convert, "convert", nil, "machine whose guest is converted from the next start on, as for create; repeat it")
	cmd.Flags().StringArrayVar(&asIs, "no-convert", nil, "machine whose guest is not converted any more; repeat it")
	cmd.Flags().StringVar(&runbook, "runbook", "", "file with the new runbook in JSON, as the API takes it; - reads standard input, none drops the runbook")
	cmd.Flags().StringArrayVar(&none, "no-checks", nil, "machine whose checks are dropped; repeat it")
	return cmd
}

// checkEdits gives the machines whose checks change.
func checkEdits(g api.Group, checks, none []string) ([]api.MachineEdit, error) {
	machines := slices.Clone(g.Machines)
	for i := range machines {
		machines[i].Checks = nil
	}
	for _, c := range checks {
		if err := addCheck(machines, c); err != nil {
			return nil, err
		}
	}
	var edits []api.MachineEdit
	for _, m := range machines {
		if len(m.Checks) > 0 {
			edits = append(edits, api.MachineEdit{VM: m.VM, Stage: m.Stage, Checks: m.Checks})
		}
	}
	for _, name := range none {
		if slices.ContainsFunc(edits, func(m api.MachineEdit) bool { return m.VM == name }) {
			return nil, wrong(fmt.Sprintf("--no-checks %s: it is given checks too", name))
		}
		edits = append(edits, api.MachineEdit{VM: name, Stage: machineOf(g, name).Stage})
	}
	return edits, nil
}

// machineOf finds a machine by what groups and hosts call it; there may be none.
func machineOf(g api.Group, name string) api.GroupMachine {
	for i, m := range g.Machines {
		if m.VM == name || i < len(g.Members) && (g.Members[i].Name == name || g.Members[i].SourceVM == name) {
			return m
		}
	}
	return api.GroupMachine{}
}

// stageEdits adds the machines whose stage changes to the edits.
func stageEdits(g api.Group, edits []api.MachineEdit, stages []string) ([]api.MachineEdit, error) {
	for _, s := range stages {
		name, stage, err := parseStage(s)
		if err != nil {
			return nil, err
		}
		var i int
		i, edits = editOf(g, edits, name)
		edits[i].Stage = stage
	}
	return edits, nil
}

// editOf finds the edit of a machine, or adds one that changes nothing.
func editOf(g api.Group, edits []api.MachineEdit, name string) (int, []api.MachineEdit) {
	if i := slices.IndexFunc(edits, func(e api.MachineEdit) bool { return e.VM == name }); i >= 0 {
		return i, edits
	}
	m := machineOf(g, name)
	return len(edits), append(edits, api.MachineEdit{VM: name, Stage: m.Stage, Checks: m.Checks})
}

// convertEdits adds the machines whose guests are converted from now on, or not any more, to the edits.
func convertEdits(g api.Group, edits []api.MachineEdit, convert, asIs []string) ([]api.MachineEdit, error) {
	for n, name := range slices.Concat(convert, asIs) {
		on := n < len(convert)
		var i int
		i, edits = editOf(g, edits, name)
		if edits[i].Convert != nil && *edits[i].Convert != on {
			return nil, wrong(fmt.Sprintf("--no-convert %s: it is to be converted too", name))
		}
		edits[i].Convert = &on
	}
	return edits, nil
}

// readRunbook reads a runbook; nil: it stays as it is.
func readRunbook(file string, in io.Reader) (*api.Runbook, error) {
	switch file {
	case "":
		return nil, nil
	case "none":
		return &api.Runbook{Stages: []api.RunbookStage{}}, nil
	}
	var r api.Runbook
	return &r, readFile("runbook", file, in, &r)
}

// hostTest tries a host before it is added.
func (a *app) hostTest() *cobra.Command {
	var spec api.HostSpec
	var file string
	cmd := a.command("test NAME URI", "Try a host before it is added, reading only", 2, func(ctx context.Context, c *client.Client, args []string) error {
		spec.Name, spec.URI = args[0], args[1]
		if err := a.hostPassword(&spec, file); err != nil {
			return err
		}
		t, err := c.TestHost(ctx, spec)
		if err != nil {
			return err
		}
		if err := a.show(t, func(w io.Writer) { writeHostTest(w, t) }); err != nil {
			return err
		}
		if t.Problem != "" || slices.ContainsFunc(t.Checks, func(check api.DoctorCheck) bool { return check.Result == "failed" }) {
			return fmt.Errorf("host %s: a check %w", args[0], errFailed)
		}
		return nil
	})
	loginFlags(cmd, &spec.User, &file)
	return cmd
}

func writeHostTest(w io.Writer, t api.HostTest) {
	facts(w, "reachable", yesNo(t.Reachable), "product", t.Product, "version", t.Version, "identity", t.Identity, "known as", t.Known,
		"abilities", abilities(t.Capabilities), "problem", t.Problem, "hint", t.Hint)
	for _, missing := range t.Capabilities.Missing {
		fmt.Fprintln(w, "missing: "+plain(missing))
	}
	if len(t.Checks) == 0 {
		return
	}
	fmt.Fprintln(w)
	table := newTable(w, "CHECK", "RESULT", "MESSAGE")
	for _, check := range t.Checks {
		table.row(check.Name, check.Result, check.Message)
	}
	table.flush()
}

// hostEdit changes what is given of a host.
func (a *app) hostEdit() *cobra.Command {
	var edit api.HostSpec
	var file string
	var cmd *cobra.Command
	cmd = a.command("edit HOST", "Change name, address or bounds of a host", 1, func(ctx context.Context, c *client.Client, args []string) error {
		h, err := c.GetHost(ctx, args[0])
		if err != nil {
			return err
		}
		spec, changed := h.HostSpec, false
		for flag, set := range map[string]func(){
			"name":     func() { spec.Name = edit.Name },
			"uri":      func() { spec.URI = edit.URI },
			"user":     func() { spec.User = edit.User },
			"max-jobs": func() { spec.MaxJobs = edit.MaxJobs },
		} {
			if cmd.Flags().Changed(flag) {
				set()
				changed = true
			}
		}
		if !changed && file == "" {
			return usageError(cmd, errors.New("nothing is to be changed: give --name, --uri, --user, --password-file or --max-jobs"))
		}
		// A password goes nowhere but where it was given for: it is asked for again.
		if spec.URI != h.URI || spec.User != h.User || file != "" {
			if err := a.hostPassword(&spec, file); err != nil {
				return err
			}
		}
		if h, err = c.UpdateHost(ctx, h.ID, h.Revision, spec); err != nil {
			return err
		}
		return a.showHost(h)
	})
	cmd.Flags().StringVar(&edit.Name, "name", "", "new name")
	cmd.Flags().StringVar(&edit.URI, "uri", "", "new address of the same host")
	loginFlags(cmd, &edit.User, &file)
	cmd.Flags().IntVar(&edit.MaxJobs, "max-jobs", 0, "copies at once; 0 means 4")
	return cmd
}
