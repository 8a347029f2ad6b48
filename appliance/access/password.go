package access

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"understudy/api"
)

// Limits of a password, in characters. There are no other rules: those that ask for digits and signs make people choose
// what is easy to guess (NIST SP 800-63B).
const (
	minPassword = 12
	maxPassword = 256
)

// Cost of a hash. The zero value means 64 MiB and one pass, more than what OWASP asks for.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
}

// maxWaiting bounds how many sign-ins wait for their turn to be hashed.
const maxWaiting = 64

// passwords hashes and compares. Each hash takes much memory by intent, so few are made at once.
type passwords struct {
	params  argon2id.Params
	turn    chan struct{}
	waiting chan struct{}
	// nobodys looks like the hash of a password, and is that of none: comparing with it takes the time of a real one.
	nobodys string
}

func newPasswords(c Cost) *passwords {
	p := &passwords{
		params:  argon2id.Params{Memory: 64 << 10, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32},
		turn:    make(chan struct{}, max(1, min(4, runtime.GOMAXPROCS(0)/2))),
		waiting: make(chan struct{}, maxWaiting),
	}
	if c.MemoryKiB > 0 {
		p.params.Memory, p.params.Iterations = c.MemoryKiB, max(1, c.Passes)
	}
	p.nobodys = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.params.Memory, p.params.Iterations, p.params.Parallelism,
		noise(p.params.SaltLength), noise(p.params.KeyLength))
	return p
}

// noise is n random bytes in base64, as hashes have them.
func noise(n uint32) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawStdEncoding.EncodeToString(b)
}

// inTurn calls fn when it is its turn.
func (p *passwords) inTurn(ctx context.Context, fn func() error) error {
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return api.Errorf(api.CodeThrottled, "Try again in a moment.", "too many people sign in at once")
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
		return fn()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// typed makes the same text of the same characters, however a keyboard composed them.
func typed(password api.Secret) string { return norm.NFC.String(password.Reveal()) }

func (p *passwords) hash(ctx context.Context, password api.Secret) (hash string, err error) {
	err = p.inTurn(ctx, func() (err error) {
		hash, err = argon2id.CreateHash(typed(password), &p.params)
		return err
	})
	return hash, err
}

// match compares with a hash; an empty one matches nothing, and takes as long to say so.
func (p *passwords) match(ctx context.Context, password api.Secret, hash string) (match bool, err error) {
	compared := hash
	if hash == "" {
		compared = p.nobodys
	}
	if utf8.RuneCountInString(password.Reveal()) > maxPassword {
		return false, nil // nobody has such a one, and nobody learns from how long it took
	}
	err = p.inTurn(ctx, func() (err error) {
		match, err = argon2id.ComparePasswordAndHash(typed(password), compared)
		return err
	})
	return match && hash != "", err
}

// checkPassword refuses passwords that are easy to guess, and those that are too long to hash.
func checkPassword(field, name string, password api.Secret) error {
	text := typed(password)
	n := utf8.RuneCountInString(text)
	wrong := func(hint, format string, args ...any) error {
		e := api.Errorf(api.CodeInvalid, hint, format, args...)
		e.Field = field
		return e
	}
	switch {
	case !utf8.ValidString(text):
		return wrong("Use letters, digits and signs.", "the password is no text")
	case n < minPassword:
		return wrong("Several words in a row are easy to remember.", "the password has fewer than %d characters", minPassword)
	case n > maxPassword:
		return wrong("", "the password has more than %d characters", maxPassword)
	case strings.Trim(text, text[:utf8.RuneLen([]rune(text)[0])]) == "":
		return wrong("Use different characters.", "the password is one character again and again")
	case strings.ReplaceAll(strings.ToLower(text), name, "") == "" || strings.EqualFold(text, strings.Repeat("understudy", 2)):
		return wrong("Choose something that others do not know.", "the password is easy to guess")
	}
	return nil
}
