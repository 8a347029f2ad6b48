package server

import "understudy/api"

// Access is what a server needs to know who comes.
type Access interface {
	api.Users
	api.Tokens
	api.AuditLog
}
