package replication

import (
	"context"
	"time"

	"understudy/api"
	"understudy/hypervisors"
)

// probeTime bounds a probe: somebody waits for it. What it made is removed afterwards all the same.
const probeTime = 100 * time.Second

// ProbePaths tries the ways to the content of disks. It runs beside replication, which makes both slower.
func (e *Engine) ProbePaths(ctx context.Context, ref string, o api.ProbeOrder) (api.DataPathReport, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	p, err := e.endpoint(ref)
	if err != nil {
		return api.DataPathReport{}, err
	}
	prober, err := ability[hypervisors.Prober](ctx, e, p.ID, "try the ways to the content of disks")
	if err != nil {
		return api.DataPathReport{}, public(err)
	}
	found, err := prober.ProbePaths(ctx, o.Storage)
	if err != nil {
		return api.DataPathReport{}, public(err)
	}
	report := api.DataPathReport{Host: p.Name, Paths: []api.DataPath{}}
	for _, f := range found {
		path := api.DataPath{Name: f.Name, ReadPerSecond: f.Read, WritePerSecond: f.Write, UsedToRead: f.UsedToRead, UsedToWrite: f.UsedToWrite}
		if f.Err != nil {
			path.Problem, path.Hint = f.Err.Error(), hypervisors.Hint(f.Err)
		}
		report.Paths = append(report.Paths, path)
	}
	return report, nil
}
