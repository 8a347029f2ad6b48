package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// AuditLog is what was changed and tried, by whom. It can only grow.
type AuditLog interface {
	// ListAudit gives the newest first.
	ListAudit(ctx context.Context, q AuditQuery) (Page[AuditEntry], error)
	// ExportAudit gives all entries of a time to fn, the oldest first; zero times have no bound.
	ExportAudit(ctx context.Context, from, to time.Time, fn func(AuditEntry) error) error
}

// AuditQuery filters the audit log.
type AuditQuery struct {
	Q      string    `query:"q" maxLength:"256" doc:"Text that an entry has anywhere; capitals do not matter"`
	User   string    `query:"user" maxLength:"128" doc:"Name of who did it"`
	Action string    `query:"action" maxLength:"128" doc:"Id of an operation"`
	From   time.Time `query:"from" doc:"Not before"`
	To     time.Time `query:"to" doc:"Before"`
	Offset int       `query:"offset" minimum:"0" doc:"How many to pass over"`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
}

// Outcomes of what is in the audit log.
const (
	OutcomeDone    = "done"    // carried out, or accepted as a job
	OutcomeRefused = "refused" // nothing was changed
	OutcomeFailed  = "failed"  // the appliance or a host failed; part of it may be changed
	OutcomeUnknown = "unknown" // the appliance ended meanwhile
)

// AuditEntry is one change or one attempt. Before and After never hold a secret.
type AuditEntry struct {
	ID      uint64          `json:"id" doc:"Ascending without gaps"`
	Time    time.Time       `json:"time" doc:"When it was asked for"`
	User    string          `json:"user" doc:"Name of who did it; empty: nobody that is known"`
	Source  string          `json:"source" doc:"Address it came from"`
	Method  string          `json:"method" enum:"local,session,token,none" doc:"How the user had proved who it is"`
	Action  string          `json:"action" doc:"Id of the operation, such as failover"`
	Subject string          `json:"subject,omitempty" doc:"What it was done to"`
	Group   string          `json:"group,omitempty" doc:"Id of the group that this belongs to"`
	Job     string          `json:"job,omitempty" doc:"The job that does it"`
	Before  json.RawMessage `json:"before,omitempty" doc:"What was there"`
	After   json.RawMessage `json:"after,omitempty" doc:"What was asked for"`
	Status  int             `json:"status" doc:"HTTP status of the answer; 0 where there was none"`
	Outcome string          `json:"outcome" enum:"done,refused,failed,unknown"`
	Message string          `json:"message,omitempty" doc:"Why it was refused or failed; how many attempts of strangers were left out before"`
	Hash    string          `json:"hash" doc:"SHA-256 over the hash of the entry before, a line break, and this entry as JSON with an empty hash"`
}

// Chained gives the hash that the entry must have after the one with the previous hash; the first has "" before it.
func (e AuditEntry) Chained(previous string) string {
	e.Hash = ""
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // it was JSON before
	}
	sum := sha256.Sum256(append([]byte(previous+"\n"), b...))
	return hex.EncodeToString(sum[:])
}

// AuditChain follows exported entries, the oldest first, and finds what was changed, left out or put in. An end that was
// cut off is found only by whoever noted the last hash.
type AuditChain struct {
	last AuditEntry
}

// Next takes the next entry; an error names the first one that is not what was written.
func (c *AuditChain) Next(e AuditEntry) error {
	last := c.last
	c.last = e
	switch {
	case last.ID == 0 && e.ID > 1:
		return nil // an export from the middle: what was before is not known
	case e.ID != last.ID+1:
		return Errorf(CodeInvalid, "", "entry %d follows entry %d: what was between is gone", e.ID, last.ID)
	case e.Hash != e.Chained(last.Hash):
		return Errorf(CodeInvalid, "", "entry %d of %s does not fit to its hash: it or the one before was changed", e.ID, e.Time.Format(time.RFC3339))
	}
	return nil
}

// Head is the last entry that was taken, for people to note.
func (c *AuditChain) Head() string {
	if c.last.ID == 0 {
		return "no entries"
	}
	return fmt.Sprintf("entry %d, %s", c.last.ID, c.last.Hash)
}

// Answer is what was answered to an order, kept in case that the order comes again.
type Answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header,omitempty"`
	Body   json.RawMessage   `json:"body,omitempty"`
}
