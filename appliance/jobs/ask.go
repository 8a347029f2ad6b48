package jobs

import (
	"context"
	"fmt"

	"understudy/api"
)

// Ask shows that the job waits for a person (api.Job.Waiting) and returns the answer that Confirm gives, over restarts
// too: an answer that came before is returned at once. The error is that of ctx, or of the store.
func (r *Run) Ask(ctx context.Context, w api.Waiting) (api.Confirmation, error) {
	answered, answer, err := r.wait(w)
	if answered == nil || err != nil {
		return answer, err
	}
	r.runner.publish("updated", r.view())
	select {
	case <-answered:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.rec.Confirmed[w.Prompt].to(w.Prompt), nil
	case <-ctx.Done():
		return api.Confirmation{}, context.Cause(ctx)
	}
}

// wait writes down that the job waits. answered is nil when the answer is there.
func (r *Run) wait(w api.Waiting) (answered chan struct{}, answer api.Confirmation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if answer, known := r.rec.Confirmed[w.Prompt]; known {
		return nil, answer.to(w.Prompt), nil
	}
	if old := r.rec.Job.Waiting; old == nil || old.Prompt != w.Prompt {
		w.Since = r.now()
		err = r.changeLocked("wait", func(rec *record) { rec.Job.Waiting = &w })
	}
	r.answered = make(chan struct{})
	return r.answered, api.Confirmation{}, err
}

// confirm is the answer of a person.
func (r *Run) confirm(c api.Confirmation) (api.Job, error) {
	job, news, err := r.answer(c)
	if news {
		r.runner.publish("updated", job)
	}
	return job, err
}

func (r *Run) answer(c api.Confirmation) (job api.Job, news bool, err error) {
	conflict := func(why string) (api.Job, bool, error) {
		return r.view(), false, api.Errorf(api.CodeConflict, "Look at the job again: what you saw is over.", "job %s cannot be confirmed: %s", r.ID(), why)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.rec.Confirmed[c.Prompt]; known {
		return r.view(), false, nil
	}
	switch waits := r.rec.Job.Waiting; {
	case r.rec.Job.State.Ended():
		return conflict("it has ended")
	case r.rec.Cancel:
		return conflict("it is being cancelled")
	case waits == nil:
		return conflict("it does not wait for anybody")
	case waits.Prompt != c.Prompt:
		return conflict(fmt.Sprintf("it waits for %s, not for %s", waits.Prompt, c.Prompt))
	}
	err = r.changeLocked("confirm", func(rec *record) {
		if rec.Confirmed == nil {
			rec.Confirmed = map[string]answer{}
		}
		rec.Confirmed[c.Prompt] = answer{Note: c.Note, By: c.By}
		rec.Job.Waiting = nil
	})
	if err != nil {
		return r.view(), false, err
	}
	if r.answered != nil {
		close(r.answered)
		r.answered = nil
	}
	return r.view(), true, nil
}

func (a answer) to(prompt string) api.Confirmation {
	return api.Confirmation{Prompt: prompt, Note: a.Note, By: a.By}
}
