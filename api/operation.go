package api

import (
	"context"
	"io"
	"time"
	"unicode/utf8"
)

// Operation is the running of the appliance itself.
type Operation interface {
	// Certificate shows what the API proves itself with.
	Certificate(ctx context.Context) (Certificate, error)
	// ReplaceCertificate takes effect at once, for connections that are made from then on.
	ReplaceCertificate(ctx context.Context, o CertificateOrder) (Certificate, error)
	// ResetCertificate goes back to one that the appliance makes itself.
	ResetCertificate(ctx context.Context) (Certificate, error)
	// Secrets tells whether the secrets that the appliance keeps can be read.
	Secrets(ctx context.Context) (SecretsStatus, error)
	// RotateKey seals all secrets with a new key and forgets the old one.
	RotateKey(ctx context.Context) (SecretsStatus, error)
	// Ready tells whether the appliance works.
	Ready(ctx context.Context) Readiness
	// Backup writes the configuration to w, encrypted. Nothing is written before all of it was read.
	Backup(ctx context.Context, o BackupOrder, w io.Writer) error
	// Restore checks a backup in full and puts it aside for the next start, which replaces the configuration by it.
	Restore(ctx context.Context, o RestoreOrder) (Restoration, error)
	// SupportBundle writes a zip file for whoever looks for a fault. It holds no secret.
	SupportBundle(ctx context.Context, w io.Writer) error
}

// Certificate of the API.
type Certificate struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names" nullable:"false" doc:"Host names and addresses that it is for"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	SelfMade    bool      `json:"selfMade" doc:"Made by the appliance, and made again before it expires"`
	Fingerprint string    `json:"fingerprint" doc:"SHA-256, as browsers show it"`
	Chain       int       `json:"chain" doc:"Certificates that are sent along, itself included"`
	Warnings    []string  `json:"warnings,omitempty" doc:"What will trouble those who connect"`
}

// CertificateOrder replaces the certificate.
type CertificateOrder struct {
	Certificate string `json:"certificate" minLength:"1" maxLength:"262144" doc:"PEM: the certificate, then those of its issuers in order"`
	Key         Secret `json:"key" writeOnly:"true" format:"password" minLength:"1" maxLength:"65536" doc:"PEM: its private key, not encrypted"`
}

// SecretsStatus is the state of the secrets that the appliance keeps, such as passwords of mail servers.
type SecretsStatus struct {
	Secrets    int      `json:"secrets" doc:"How many there are"`
	Unreadable []string `json:"unreadable" nullable:"false" doc:"Those that cannot be read"`
	Problem    string   `json:"problem,omitempty"`
	Hint       string   `json:"hint,omitempty"`
}

// Readiness says whether the appliance works, and if not, what does not.
type Readiness struct {
	Ready bool `json:"ready"`
	// Reasons name parts and what is wrong with them, never a secret.
	Reasons []string `json:"reasons" nullable:"false"`
}

// BackupOrder orders a backup of the configuration.
type BackupOrder struct {
	Passphrase Secret `json:"passphrase" writeOnly:"true" format:"password" minLength:"12" maxLength:"1024" doc:"Encrypts the backup. Without it nobody can read it, you neither"`
}

// RestoreOrder brings a backup of the configuration back.
type RestoreOrder struct {
	Passphrase Secret `json:"passphrase" writeOnly:"true" format:"password" minLength:"1" maxLength:"1024"`
	Data       []byte `json:"data" doc:"The backup, in base64"`
}

// Restoration is a backup that was found good.
type Restoration struct {
	Made      time.Time `json:"made" doc:"When the backup was made"`
	Version   string    `json:"version" doc:"Of the appliance that made it"`
	Appliance string    `json:"appliance" doc:"Identity that the appliance will have"`
	Hosts     int       `json:"hosts"`
	Groups    int       `json:"groups" doc:"They come back paused"`
	Users     int       `json:"users"`
	Secrets   int       `json:"secrets"`
	Restart   bool      `json:"restart" doc:"It takes effect when the appliance is started again"`
	Warnings  []string  `json:"warnings,omitempty"`
}

// Limits of a backup.
const (
	// MinPassphrase is the length of the shortest passphrase, in characters: a backup may be tried for years.
	MinPassphrase = 12
	// MaxBackup bounds a backup in bytes: many times what 5,000 machines need.
	MaxBackup = 32 << 20
)

// Validate says what is wrong with the passphrase.
func (o BackupOrder) Validate() error {
	if utf8.RuneCountInString(o.Passphrase.Reveal()) < MinPassphrase {
		return &Error{Code: CodeInvalid, Field: "passphrase", Message: "the passphrase is too short",
			Hint: "Take at least 12 characters; several words are easy to remember."}
	}
	return nil
}

// Validate says what is wrong with the order; what is in the backup is looked at later.
func (o RestoreOrder) Validate() error {
	switch {
	case o.Passphrase.IsZero():
		return &Error{Code: CodeInvalid, Field: "passphrase", Message: "there is no passphrase", Hint: "Give the one that the backup was made with."}
	case len(o.Data) == 0:
		return &Error{Code: CodeInvalid, Field: "data", Message: "there is no backup", Hint: "Give the file that the backup was written to."}
	case len(o.Data) > MaxBackup:
		return &Error{Code: CodeInvalid, Field: "data", Message: "this is too large for a backup", Hint: "Give the file that the backup was written to."}
	}
	return nil
}
