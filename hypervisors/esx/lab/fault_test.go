package lab

import (
	"errors"
	"testing"

	tasks "github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// faultOf a SOAP or task error.
func faultOf(t *testing.T, err error) types.BaseMethodFault {
	t.Helper()
	var failed tasks.Error
	switch {
	case errors.As(err, &failed):
		return failed.Fault()
	case soap.IsSoapFault(err):
		if f, ok := soap.ToSoapFault(err).VimFault().(types.BaseMethodFault); ok {
			return f
		}
	case soap.IsVimFault(err):
		return soap.ToVimFault(err)
	}
	t.Fatalf("no fault: %v", err)
	return nil
}
