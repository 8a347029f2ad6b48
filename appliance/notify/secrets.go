package notify

import (
	"fmt"
	"slices"

	"understudy/api"
)

// secretField is a secret of a channel: where it comes in, and where it is noted that there is one.
type secretField struct {
	field  string // as users write it
	value  *api.Secret
	set    *bool
	wanted bool // this channel has one; otherwise an old one is forgotten
}

// secretsOf gives the secrets that the kind of channel can have.
func secretsOf(s *api.ChannelSpec) []secretField {
	switch s.Kind {
	case api.ChannelEmail:
		return []secretField{{"email.password", &s.Email.Password, &s.Email.PasswordSet, s.Email.User != ""}}
	case api.ChannelSNMP:
		v3 := s.SNMP.Version == "v3"
		return []secretField{
			{"snmp.community", &s.SNMP.Community, &s.SNMP.CommunitySet, !v3},
			{"snmp.authPassword", &s.SNMP.AuthPassword, &s.SNMP.AuthPasswordSet, v3},
			{"snmp.privPassword", &s.SNMP.PrivPassword, &s.SNMP.PrivPasswordSet, v3},
		}
	case api.ChannelWebhook:
		return []secretField{{"webhook.secret", &s.Webhook.Secret, &s.Webhook.SecretSet, true}}
	}
	return nil
}

func secretName(channel, field string) string { return "notify/" + channel + "/" + field }

// forgetSecrets deletes what the channel had and has no longer. One that stays behind is sealed, and does no harm.
func (n *Notifier) forgetSecrets(id string, before, now api.ChannelSpec) {
	var keep []string
	for _, s := range secretsOf(&now) {
		if *s.set {
			keep = append(keep, s.field)
		}
	}
	for _, s := range secretsOf(&before) {
		if *s.set && !slices.Contains(keep, s.field) {
			n.logged("forget secret", n.Secrets.Delete(secretName(id, s.field)))
		}
	}
}

// unseal gives the channel with its secrets in place, for the time of one attempt.
func (n *Notifier) unseal(id string, spec api.ChannelSpec) (api.ChannelSpec, []api.Secret, error) {
	spec = cloneSpec(spec)
	var all []api.Secret
	for _, s := range secretsOf(&spec) {
		if !*s.set {
			continue
		}
		value, err := n.Secrets.Get(secretName(id, s.field))
		if err != nil {
			return spec, nil, fmt.Errorf("read %s: %w", s.field, err)
		}
		*s.value = value
		all = append(all, value)
	}
	return spec, all, nil
}

// cloneSpec copies a specification with all its parts.
func cloneSpec(s api.ChannelSpec) api.ChannelSpec {
	if s.Email != nil {
		part := *s.Email
		part.To = slices.Clone(part.To)
		s.Email = &part
	}
	if s.SNMP != nil {
		part := *s.SNMP
		s.SNMP = &part
	}
	if s.Syslog != nil {
		part := *s.Syslog
		s.Syslog = &part
	}
	if s.Webhook != nil {
		part := *s.Webhook
		s.Webhook = &part
	}
	return s
}

// goesElsewhere says whether a secret that is kept would now reach another receiver, or travel less safely, than the one
// that it was given for.
func goesElsewhere(before, now api.ChannelSpec) bool {
	if before.Kind != now.Kind {
		return false // no secret is kept
	}
	switch now.Kind {
	case api.ChannelEmail:
		a, b := before.Email, now.Email
		return a.PasswordSet && b.User != "" && (a.Host != b.Host || a.Port != b.Port || a.CA != b.CA || b.Security == "none")
	case api.ChannelSNMP:
		a, b := before.SNMP, now.SNMP
		return a.Version == b.Version && (a.Host != b.Host || a.Port != b.Port)
	}
	return false // the key of a webhook's signature never travels
}

// hasAllSecrets says whether nothing has to be kept from before.
func hasAllSecrets(s api.ChannelSpec) bool {
	for _, f := range secretsOf(&s) {
		if f.wanted && f.value.IsZero() {
			return false
		}
	}
	return true
}
