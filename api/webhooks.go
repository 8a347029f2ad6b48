package api

import (
	"encoding/base64"
	"errors"
	"strings"
)

// WebhookKey reads the key of a webhook's signature, as the Standard Webhooks specification writes it: whsec_ and 24 to 64
// bytes in base64. The error holds nothing of it.
func WebhookKey(s Secret) ([]byte, error) {
	text, ok := strings.CutPrefix(s.Reveal(), "whsec_")
	if !ok {
		return nil, errors.New("the secret does not begin with whsec_")
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("the secret is no base64 after whsec_")
	}
	if len(key) < minWebhookKey || len(key) > maxWebhookKey {
		return nil, errors.New("the secret has fewer than 24 or more than 64 bytes")
	}
	return key, nil
}
