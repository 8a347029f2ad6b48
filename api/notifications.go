package api

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Notifications tell people and other systems what happened: a rule chooses what is told, a channel is who is told.
type Notifications interface {
	ListChannels(ctx context.Context) ([]Channel, error)
	CreateChannel(ctx context.Context, spec ChannelSpec) (Channel, error)
	// UpdateChannel changes a channel; revision must be the one that was read (CodeStale). A secret that is left out stays.
	UpdateChannel(ctx context.Context, id string, revision int64, spec ChannelSpec) (Channel, error)
	// DeleteChannel refuses while a rule names the channel (CodeInUse). What still waits for it is given up.
	DeleteChannel(ctx context.Context, id string) error
	// TestChannel sends a message now that says that it is a test, also when the channel is not enabled, and tells what the
	// receiver answered. A receiver that refuses is a Delivery that failed and no error.
	TestChannel(ctx context.Context, id string) (Delivery, error)

	ListRules(ctx context.Context) ([]Rule, error)
	CreateRule(ctx context.Context, spec RuleSpec) (Rule, error)
	UpdateRule(ctx context.Context, id string, revision int64, spec RuleSpec) (Rule, error)
	DeleteRule(ctx context.Context, id string) error

	// ListDeliveries gives the newest 1,000 at most, the newest first.
	ListDeliveries(ctx context.Context, q DeliveryQuery) (Page[Delivery], error)
	// MIB is the SNMP MIB module of the appliance's notifications, as text.
	MIB(ctx context.Context) (string, error)
}

// Kinds of channels.
const (
	ChannelEmail   = "email"
	ChannelSNMP    = "snmp"
	ChannelSyslog  = "syslog"
	ChannelWebhook = "webhook"
)

// ChannelSpec says who is told, and how. Exactly the part that its kind names is there.
type ChannelSpec struct {
	Name    string          `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-zA-Z0-9][a-zA-Z0-9._ -]*$"`
	Enabled bool            `json:"enabled" doc:"Only then is anything sent, but for tests"`
	Kind    string          `json:"kind" enum:"email,snmp,syslog,webhook"`
	Email   *EmailChannel   `json:"email,omitempty"`
	SNMP    *SNMPChannel    `json:"snmp,omitempty"`
	Syslog  *SyslogChannel  `json:"syslog,omitempty"`
	Webhook *WebhookChannel `json:"webhook,omitempty"`
}

// Channel is one receiver of notifications.
type Channel struct {
	ChannelSpec
	ID       string `json:"id"`
	Revision int64  `json:"revision" doc:"For If-Match"`
	// Waiting and Problem tell how it goes.
	Waiting int    `json:"waiting" doc:"Notifications that wait for this channel"`
	Problem string `json:"problem,omitempty" doc:"Why the last attempt failed; empty once one succeeded"`
}

// EmailChannel sends mail over SMTP.
type EmailChannel struct {
	Host        string   `json:"host" minLength:"1" maxLength:"253" doc:"Mail server" example:"mail.example.com"`
	Port        int      `json:"port" minimum:"1" maximum:"65535" example:"587"`
	Security    string   `json:"security" enum:"starttls,tls,none" doc:"starttls is demanded, never merely tried; none sends in the clear and takes no password"`
	CA          string   `json:"ca,omitempty" maxLength:"65536" doc:"PEM certificates to trust instead of the system's"`
	User        string   `json:"user,omitempty" maxLength:"256" doc:"Empty: no sign-in"`
	Password    Secret   `json:"password,omitzero" writeOnly:"true" format:"password" maxLength:"1024" doc:"Left out: as before"`
	PasswordSet bool     `json:"passwordSet,omitempty" readOnly:"true"`
	From        string   `json:"from" minLength:"3" maxLength:"320" example:"understudy@example.com"`
	To          []string `json:"to" minItems:"1" maxItems:"50" example:"[\"admins@example.com\"]"`
}

// SNMPChannel sends notifications to an SNMP manager. Version 3 signs and encrypts (authPriv), always.
type SNMPChannel struct {
	Host    string `json:"host" minLength:"1" maxLength:"253"`
	Port    int    `json:"port" minimum:"1" maximum:"65535" example:"162"`
	Version string `json:"version" enum:"v2c,v3"`
	// Inform asks the manager to acknowledge: only then is it known that something arrived.
	Inform          bool   `json:"inform,omitempty" doc:"Send informs, which the manager acknowledges, instead of traps"`
	Community       Secret `json:"community,omitzero" writeOnly:"true" format:"password" maxLength:"255" doc:"Version 2c. Left out: as before"`
	CommunitySet    bool   `json:"communitySet,omitempty" readOnly:"true"`
	User            string `json:"user,omitempty" maxLength:"32" doc:"Version 3"`
	AuthProtocol    string `json:"authProtocol,omitempty" enum:"sha,sha224,sha256,sha384,sha512" doc:"Version 3; empty means sha256"`
	AuthPassword    Secret `json:"authPassword,omitzero" writeOnly:"true" format:"password" maxLength:"255" doc:"Version 3, 8 characters or more. Left out: as before"`
	AuthPasswordSet bool   `json:"authPasswordSet,omitempty" readOnly:"true"`
	PrivProtocol    string `json:"privProtocol,omitempty" enum:"aes,aes192,aes256" doc:"Version 3; empty means aes (128 bits)"`
	PrivPassword    Secret `json:"privPassword,omitzero" writeOnly:"true" format:"password" maxLength:"255" doc:"Version 3, 8 characters or more. Left out: as before"`
	PrivPasswordSet bool   `json:"privPasswordSet,omitempty" readOnly:"true"`
	EngineID        string `json:"engineId,omitempty" readOnly:"true" doc:"Engine id of the appliance in hexadecimal, which receivers of version 3 traps must know"`
}

// SyslogChannel sends to a syslog server, as RFC 5424 says.
type SyslogChannel struct {
	Host      string `json:"host" minLength:"1" maxLength:"253"`
	Port      int    `json:"port" minimum:"1" maximum:"65535" example:"6514"`
	Transport string `json:"transport" enum:"udp,tcp,tls" doc:"tcp and tls count octets (RFC 6587, RFC 5425)"`
	CA        string `json:"ca,omitempty" maxLength:"65536" doc:"PEM certificates to trust instead of the system's"`
	Facility  string `json:"facility,omitempty" enum:"user,daemon,local0,local1,local2,local3,local4,local5,local6,local7" doc:"Empty means daemon"`
}

// WebhookChannel posts JSON to a URL, signed as the Standard Webhooks specification says.
type WebhookChannel struct {
	URL       string `json:"url" minLength:"1" maxLength:"2048" example:"https://hooks.example.com/understudy" doc:"https; plain http for loopback addresses only. Redirects are not followed"`
	CA        string `json:"ca,omitempty" maxLength:"65536" doc:"PEM certificates to trust instead of the system's"`
	Secret    Secret `json:"secret,omitzero" writeOnly:"true" format:"password" maxLength:"200" doc:"Key of the signature: whsec_ and 24 to 64 bytes in base64. Left out: as before"`
	SecretSet bool   `json:"secretSet,omitempty" readOnly:"true"`
}

// Kinds of notifications beside the kinds of alerts. A rule may also name kinds of jobs, such as failover.
const (
	NoticeJobFailed = "job-failed" // a job failed; cycles have their own alert, cycle-failing
	NoticeJobEnded  = "job-ended"  // an order of a person ended well or was cancelled
)

// SeverityInfo is what ended orders have; alerts are worse.
const SeverityInfo Severity = "info"

// RuleSpec says which notifications go to which channels. A notification that several rules choose is told once for each
// channel.
type RuleSpec struct {
	Name        string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-zA-Z0-9][a-zA-Z0-9._ -]*$"`
	Enabled     bool     `json:"enabled"`
	Kinds       []string `json:"kinds,omitempty" maxItems:"40" doc:"Kinds of alerts, job-failed, job-ended, or kinds of jobs such as failover; empty means all"`
	Groups      []string `json:"groups,omitempty" maxItems:"1000" doc:"Ids of groups; empty means all, and hosts too"`
	MinSeverity Severity `json:"minSeverity,omitempty" enum:"info,warning,critical" doc:"Empty means info: everything"`
	Channels    []string `json:"channels" minItems:"1" maxItems:"50" doc:"Ids of channels"`
}

// Rule chooses what is told to whom.
type Rule struct {
	RuleSpec
	ID       string `json:"id"`
	Revision int64  `json:"revision" doc:"For If-Match"`
}

// DeliveryState of a message.
type DeliveryState string

// States of a delivery.
const (
	Delivered        DeliveryState = "delivered" // the receiver took it; over UDP: it was sent
	DeliveryRetrying DeliveryState = "retrying"
	DeliveryFailed   DeliveryState = "failed" // given up
)

// Delivery is the record of one message to one channel.
type Delivery struct {
	ID          string        `json:"id" doc:"Id of the message, the same in all attempts"`
	Time        time.Time     `json:"time" doc:"Of the last attempt"`
	Channel     string        `json:"channel" doc:"Id of the channel"`
	ChannelName string        `json:"channelName"`
	Subject     string        `json:"subject"`
	Alerts      int           `json:"alerts" doc:"How many notifications the message gathers"`
	Test        bool          `json:"test,omitempty"`
	State       DeliveryState `json:"state" enum:"delivered,retrying,failed"`
	Tries       int           `json:"tries"`
	Answer      string        `json:"answer,omitempty" doc:"What the receiver said"`
	Error       string        `json:"error,omitempty" doc:"Why the last attempt failed"`
	Hint        string        `json:"hint,omitempty" doc:"What to do about it"`
	NextTry     *time.Time    `json:"nextTry,omitempty"`
}

// DeliveryQuery chooses deliveries.
type DeliveryQuery struct {
	Paging
	Channel string `query:"channel" maxLength:"128" doc:"Id of a channel; empty means all"`
	State   string `query:"state" enum:"delivered,retrying,failed"`
}

// Limits of notifications, beside those in the schema.
const (
	MaxChannels   = 50
	MaxRules      = 200
	maxTo         = 50
	minUSM        = 8 // characters of an SNMP password: RFC 3414, 11.2
	minWebhookKey = 24
	maxWebhookKey = 64
)

var noticeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._ -]{0,62}$`)

// Validate checks what the schema cannot say; see GroupSpec.Validate. Secrets that are missing may have been kept from
// before: the appliance looks at them.
func (s ChannelSpec) Validate() error {
	if !noticeName.MatchString(s.Name) {
		return invalid("name", "Use letters, digits, spaces, dots and dashes, 63 at most.", "%q is no name for a channel", s.Name)
	}
	parts := map[string]bool{ChannelEmail: s.Email != nil, ChannelSNMP: s.SNMP != nil, ChannelSyslog: s.Syslog != nil,
		ChannelWebhook: s.Webhook != nil}
	has, known := parts[s.Kind]
	if !known {
		return invalid("kind", "Use email, snmp, syslog or webhook.", "there is no channel of kind %q", s.Kind)
	}
	if !has {
		return invalid(s.Kind, "Say where the messages go.", "the channel has no part %s", s.Kind)
	}
	for kind, there := range parts {
		if there && kind != s.Kind {
			return invalid(kind, "Leave it out, or make another channel.", "a channel of kind %s has no part %s", s.Kind, kind)
		}
	}
	switch s.Kind {
	case ChannelEmail:
		return s.Email.validate()
	case ChannelSNMP:
		return s.SNMP.validate()
	case ChannelSyslog:
		return s.Syslog.validate()
	}
	return s.Webhook.validate()
}

func (c EmailChannel) validate() error {
	if err := validateReceiver("email", c.Host, c.Port); err != nil {
		return err
	}
	switch {
	case !slices.Contains([]string{"starttls", "tls", "none"}, c.Security):
		return invalid("email.security", "Use starttls, tls or none.", "there is no security %q", c.Security)
	case c.Security == "none" && (c.User != "" || !c.Password.IsZero()):
		return invalid("email.user", "Use starttls or tls, or no sign-in.", "a password must not be sent in the clear")
	case !c.Password.IsZero() && c.User == "":
		return invalid("email.user", "Give the user too.", "there is a password but no user")
	case !isMailbox(c.From):
		return invalid("email.from", "Write it as understudy@example.com.", "%q is no mail address", c.From)
	case len(c.To) == 0:
		return invalid("email.to", "Name at least one.", "there is nobody to write to")
	case len(c.To) > maxTo:
		return invalid("email.to", "Use a mailing list.", "%d addresses are more than %d", len(c.To), maxTo)
	}
	for i, to := range c.To {
		if !isMailbox(to) {
			return invalid(fmt.Sprintf("email.to[%d]", i), "Write it as admins@example.com.", "%q is no mail address", to)
		}
	}
	return validateCA("email.ca", c.CA)
}

// isMailbox is a plain address, without a display name and in ASCII, as every mail server takes it.
func isMailbox(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && isPrintable(s) && len(s) <= 320
}

func (c SNMPChannel) validate() error {
	if err := validateReceiver("snmp", c.Host, c.Port); err != nil {
		return err
	}
	switch c.Version {
	case "v2c":
		if c.User != "" || c.AuthProtocol != "" || c.PrivProtocol != "" || !c.AuthPassword.IsZero() || !c.PrivPassword.IsZero() {
			return invalid("snmp.user", "Use version v3, or leave out user, protocols and passwords.", "version v2c has a community only")
		}
		if !isPrintable(c.Community.Reveal()) {
			return invalid("snmp.community", "Use letters, digits and signs.", "the community has characters that cannot be sent")
		}
		return nil
	case "v3":
	default:
		return invalid("snmp.version", "Use v2c or v3.", "there is no version %q", c.Version)
	}
	if !c.Community.IsZero() {
		return invalid("snmp.community", "Use version v2c, or leave it out.", "version v3 has no community")
	}
	if c.User == "" || len(c.User) > 32 || !isPrintable(c.User) {
		return invalid("snmp.user", "Give the name that the manager knows, 32 characters at most.", "version v3 needs a user")
	}
	if !slices.Contains([]string{"", "sha", "sha224", "sha256", "sha384", "sha512"}, c.AuthProtocol) {
		return invalid("snmp.authProtocol", "Use sha, sha224, sha256, sha384 or sha512.", "there is no protocol %q", c.AuthProtocol)
	}
	if !slices.Contains([]string{"", "aes", "aes192", "aes256"}, c.PrivProtocol) {
		return invalid("snmp.privProtocol", "Use aes, aes192 or aes256.", "there is no protocol %q", c.PrivProtocol)
	}
	for field, s := range map[string]Secret{"snmp.authPassword": c.AuthPassword, "snmp.privPassword": c.PrivPassword} {
		if !s.IsZero() && len(s.Reveal()) < minUSM {
			return invalid(field, "Use 8 characters or more.", "the password is too short for SNMP")
		}
	}
	return nil
}

func (c SyslogChannel) validate() error {
	if err := validateReceiver("syslog", c.Host, c.Port); err != nil {
		return err
	}
	if !slices.Contains([]string{"udp", "tcp", "tls"}, c.Transport) {
		return invalid("syslog.transport", "Use udp, tcp or tls.", "there is no transport %q", c.Transport)
	}
	if c.CA != "" && c.Transport != "tls" {
		return invalid("syslog.ca", "Use it with tls, or leave it out.", "transport %s has no certificates", c.Transport)
	}
	if _, ok := SyslogFacility(c.Facility); !ok {
		return invalid("syslog.facility", "Use user, daemon, or local0 to local7.", "there is no facility %q", c.Facility)
	}
	return validateCA("syslog.ca", c.CA)
}

// SyslogFacility gives the number of a facility (RFC 5424, table 1); empty means daemon.
func SyslogFacility(name string) (number uint8, ok bool) {
	switch name = cmp.Or(name, "daemon"); {
	case name == "user":
		return 1, true
	case name == "daemon":
		return 3, true
	case len(name) == 6 && strings.HasPrefix(name, "local") && name[5] >= '0' && name[5] <= '7':
		return 16 + name[5] - '0', true
	}
	return 0, false
}

func (c WebhookChannel) validate() error {
	const hint = "Write it as https://hooks.example.com/path."
	u, err := url.Parse(c.URL)
	switch {
	case err != nil, len(c.URL) > 2048: // the error would repeat the URL, which may hold a key
		return invalid("webhook.url", hint, "the address is no URL")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return invalid("webhook.url", "Use https. Plain http is for loopback addresses.", "the address is not https")
	case u.User != nil:
		return invalid("webhook.url", "Check the signature instead, it needs no password.", "the address must not hold a password")
	case u.Fragment != "":
		return invalid("webhook.url", hint, "the address has a fragment, which is never sent")
	}
	if err := validateHost("webhook.url", u.Hostname()); err != nil {
		return err
	}
	if u.Port() != "" && !isPort(u.Port()) {
		return invalid("webhook.url", hint, "%q is no port", u.Port())
	}
	if !c.Secret.IsZero() {
		if _, err := WebhookKey(c.Secret); err != nil {
			return invalid("webhook.secret", "Use whsec_ and 24 to 64 random bytes in base64: echo whsec_$(head -c 32 /dev/urandom | base64 -w0).", "%s", err)
		}
	}
	return validateCA("webhook.ca", c.CA)
}

func validateReceiver(field, host string, port int) error {
	if port < 1 || port > 65535 {
		return invalid(field+".port", "Use 1 to 65535.", "there is no port %d", port)
	}
	return validateHost(field+".host", host)
}

var hostName = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?\.?$`)

func validateHost(field, host string) error {
	a, err := netip.ParseAddr(host)
	switch {
	case err == nil && (a.IsUnspecified() || a.IsMulticast()):
		return invalid(field, "Name one receiver.", "%s is no receiver", host)
	case err != nil && (len(host) > 253 || !hostName.MatchString(host)):
		return invalid(field, "Give a name or an IP address, without port.", "%q is no host", host)
	}
	return nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func validateCA(field, text string) error {
	if text == "" {
		return nil
	}
	if len(text) > 64<<10 || !x509.NewCertPool().AppendCertsFromPEM([]byte(text)) {
		return invalid(field, "Give PEM blocks of kind CERTIFICATE, 64 KiB at most.", "there is no certificate in it")
	}
	return nil
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// severities in ascending order.
var severities = []Severity{SeverityInfo, SeverityWarning, SeverityCritical}

// Reaches says whether s is as bad as limit, or worse. No limit means everything.
func (s Severity) Reaches(limit Severity) bool {
	return slices.Index(severities, s) >= slices.Index(severities, cmp.Or(limit, SeverityInfo))
}

// NoticeKinds are all kinds that a rule can name.
func NoticeKinds() []string {
	return []string{
		AlertMismatch, AlertSplitBrain, AlertDiverged, AlertStray, AlertRPOMissed, AlertCycleFailing, AlertHostDown, AlertStorageLow, AlertCertificate,
		AlertDriverMissing,
		NoticeJobFailed, NoticeJobEnded,
		"mirror", "verify", "test", "end-test", "failover", "commit", "rollback", "reprotect", "failback", "fence", "drop-point", "remove",
	}
}

// Validate checks what the schema cannot say; see GroupSpec.Validate. Whether channels and groups are there is for the
// appliance to see.
func (s RuleSpec) Validate() error {
	if !noticeName.MatchString(s.Name) {
		return invalid("name", "Use letters, digits, spaces, dots and dashes, 63 at most.", "%q is no name for a rule", s.Name)
	}
	if s.MinSeverity != "" && !slices.Contains(severities, s.MinSeverity) {
		return invalid("minSeverity", "Use info, warning or critical.", "there is no severity %q", s.MinSeverity)
	}
	for i, kind := range s.Kinds {
		if !slices.Contains(NoticeKinds(), kind) {
			return invalid(fmt.Sprintf("kinds[%d]", i), "Use some of: "+strings.Join(NoticeKinds(), ", ")+".", "there is no kind %q", kind)
		}
	}
	if len(s.Channels) == 0 {
		return invalid("channels", "Name at least one.", "the rule has no channel")
	}
	for field, list := range map[string][]string{"kinds": s.Kinds, "groups": s.Groups, "channels": s.Channels} {
		if len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
			return invalid(field, "Name each once.", "something is named twice")
		}
	}
	return nil
}
