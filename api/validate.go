package api

// Validate says what the schema cannot.
func (s GroupSpec) Validate() error { panic("soon") }

// Validate says what the schema cannot.
func (p Policy) Validate() error { panic("soon") }

// ValidateHosts refuses a source and a target that are the same host under two names.
func ValidateHosts(source, target Host) error { panic("soon") }
