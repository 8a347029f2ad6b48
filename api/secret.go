package api

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Secret is a password, key or token. However it is printed, logged or encoded, it shows that it is there and nothing of
// what it is: the text comes out by [Secret.Reveal] alone. The zero value is no secret.
//
// JSON reads it from a string and writes it redacted, so that what is kept, answered or published by mistake gives nothing
// away; [Secret.InClear] is for the one request or answer that has to carry it. A field of an answer that people send back
// after an edit reads the redacted text as no secret, which means to keep what is there. Fields look like this:
//
//	Password api.Secret `json:"password,omitzero" writeOnly:"true" format:"password" maxLength:"1024"`
type Secret struct {
	_       [0]func() // == would compare where the text lies: see Equal
	text    *string   // behind a pointer, for fmt and reflection print unexported fields too
	inClear bool
}

// Redacted is what everybody sees of a secret.
const Redacted = "[secret]"

// MaxSecret bounds what JSON may give for a secret, in bytes.
const MaxSecret = 64 << 10

// NewSecret makes a secret; of an empty text, none.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal is the secret itself. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// InClear is the same secret, which JSON writes as it is.
func (s Secret) InClear() Secret {
	s.inClear = true
	return s
}

// IsZero tells that there is no secret.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal compares in a time that tells the length alone.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return Redacted
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return "api.Secret(" + s.String() + ")" }

// Format implements fmt.Formatter: for every verb.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(f, text) // fmt asks for no error
}

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, which JSON uses.
func (s Secret) MarshalText() ([]byte, error) {
	if s.inClear {
		return []byte(s.Reveal()), nil
	}
	return []byte(s.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler, which JSON uses.
func (s *Secret) UnmarshalText(text []byte) error {
	if len(text) > MaxSecret {
		return errors.New("a secret is too long")
	}
	if *s = NewSecret(string(text)); s.Reveal() == Redacted {
		*s = Secret{}
	}
	return nil
}
