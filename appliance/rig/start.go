package rig

import (
	"os/exec"
	"runtime"
	"sync"
)

// start starts a process from a thread that lives as long as we do: Pdeathsig strikes when the thread that started a
// process ends, not only when all do.
func start(cmd *exec.Cmd) error {
	starting.Do(func() {
		go func() {
			runtime.LockOSThread()
			for s := range starts {
				s.done <- s.cmd.Start()
			}
		}()
	})
	s := request{cmd, make(chan error)}
	starts <- s
	return <-s.done
}

type request struct {
	cmd  *exec.Cmd
	done chan error
}

var (
	starting sync.Once
	starts   = make(chan request)
)
