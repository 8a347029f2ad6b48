package api

// How many items a page has, when nobody says, and at most.
const (
	defaultPage = 100
	maxPage     = 1000
)

// Page is a part of a list that grows.
type Page[T any] struct {
	Items []T `json:"items" nullable:"false"`
	Total int `json:"total" doc:"How many there are in all, with these filters"`
}

// Paging says which part of a list is wanted.
type Paging struct {
	Offset int `query:"offset" minimum:"0" maximum:"10000000" doc:"How many items to leave out"`
	Limit  int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most"`
}

// Validate checks the bounds; a limit of 0 stands for 100.
func (p Paging) Validate() error {
	if p.Offset < 0 {
		return invalid("offset", "Use 0 or more.", "an offset of %d is not possible", p.Offset)
	}
	if p.Limit < 0 || p.Limit > maxPage {
		return invalid("limit", "Use 1 to 1000, and read the list page by page.", "a page of %d items is not possible", p.Limit)
	}
	return nil
}

// Cut gives the bounds of the page in a list of so many items.
func (p Paging) Cut(total int) (from, to int) {
	limit := p.Limit
	if limit == 0 {
		limit = defaultPage
	}
	from = min(max(p.Offset, 0), total)
	return from, min(from+limit, total)
}

// PageOf cuts a page out of all items.
func PageOf[T any](all []T, p Paging) Page[T] {
	from, to := p.Cut(len(all))
	return Page[T]{Items: append([]T{}, all[from:to]...), Total: len(all)}
}

// All reads a list page by page. What moves to another page meanwhile may be missed or come twice.
func All[T any](list func(Paging) (Page[T], error)) ([]T, error) {
	out := []T{}
	for {
		page, err := list(Paging{Offset: len(out), Limit: maxPage})
		if err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if len(page.Items) == 0 || len(out) >= page.Total {
			return out, nil
		}
	}
}
