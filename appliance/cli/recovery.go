package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) jobConfirm() *cobra.Command {
	var note, prompt string
	var yes bool
	cmd := a.command("confirm JOB", "Say that a manual step is done, so that the job goes on", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			if prompt == "" {
				job, err := c.GetJob(ctx, args[0])
				if err != nil {
					return err
				}
				if job.Waiting == nil {
					return api.Errorf(api.CodeConflict, "", "job %s does not wait for anybody", job.ID)
				}
				if err := a.confirm(ctx, []string{"Job " + job.ID + " waits " + waitingText(job)}, yes); err != nil {
					return err
				}
				prompt = job.Waiting.Prompt // what was shown, whatever it waits for by now
			}
			job, err := c.ConfirmJob(ctx, args[0], api.Confirmation{Prompt: prompt, Note: note})
			if err != nil {
				return err
			}
			return a.showJob(job)
		})
	cmd.Flags().StringVar(&prompt, "prompt", "", "id of what is confirmed, as the job says it; nobody is asked then")
	cmd.Flags().StringVar(&note, "note", "", "kept in the report")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// waitingText is what a person is asked to do, empty when the job waits for nobody.
func waitingText(j api.Job) string {
	w := j.Waiting
	if w == nil {
		return ""
	}
	text := fmt.Sprintf("for a person since %s (%s): %s", stamp(w.Since), w.Prompt, w.Text)
	if w.ProductionOff {
		text += " (production is off meanwhile)"
	}
	return text
}
