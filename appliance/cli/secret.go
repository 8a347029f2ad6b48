package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"understudy/api"
)

// maxSecret bounds what is read of a file with a secret, in bytes.
const maxSecret = 4096

// secret reads a password or passphrase (noun) from the first line of a file, or asks a person; twice where a typing mistake
// would lock somebody out. It is never an argument: those are seen by everybody on the machine.
func (a *app) secret(noun, file string, twice bool) (api.Secret, error) {
	if file == "" {
		return a.askSecret(noun, twice)
	}
	in := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return api.Secret{}, wrong(err.Error())
		}
		defer f.Close()
		in = f
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxSecret)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return api.Secret{}, fmt.Errorf("read the %s: %w", noun, err)
	}
	return api.NewSecret(strings.TrimRight(line, "\r\n")), nil
}

func (a *app) askSecret(noun string, twice bool) (api.Secret, error) {
	in, ok := a.in.(*os.File)
	if !ok || !a.asks {
		return api.Secret{}, wrong("nobody is here to be asked for the " + noun + ": use --" + noun + "-file")
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(a.err, prompt)
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.err)
		return string(b), err
	}
	first, err := ask(strings.ToUpper(noun[:1]) + noun[1:] + ": ")
	if err != nil {
		return api.Secret{}, fmt.Errorf("read the %s: %w", noun, err)
	}
	if twice {
		again, err := ask("Again: ")
		if err != nil {
			return api.Secret{}, fmt.Errorf("read the %s: %w", noun, err)
		}
		if first != again {
			return api.Secret{}, wrong("these were not the same")
		}
	}
	return api.NewSecret(first), nil
}
