package server

import "understudy/api"

// What records are asked for, and by whom: the scope is never taken from a query.
type (
	groupQuery struct {
		Asked
		api.GroupQuery
	}
	jobQuery struct {
		Asked
		api.JobQuery
	}
)

// page never answers null.
func page[T any](p api.Page[T], err error) (*body[api.Page[T]], error) {
	if p.Items == nil {
		p.Items = []T{}
	}
	return &body[api.Page[T]]{Body: p}, err
}
