package api

import (
	"context"
	"time"
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
