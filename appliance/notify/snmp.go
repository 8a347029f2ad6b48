package notify

import (
	"context"
	_ "embed" // the MIB
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gosnmp/gosnmp"

	"understudy/api"
)

//go:embed UNDERSTUDY-MIB.txt
var mib string

// MIB implements api.Notifications.
func (n *Notifier) MIB(context.Context) (string, error) { return mib, nil }

// Objects of UNDERSTUDY-MIB.
var (
	oidUnderstudy = fmt.Sprintf(".1.3.6.1.4.1.%d.7", enterprise)

	oidAlertBegin = oidUnderstudy + ".0.1"
	oidAlertEnd   = oidUnderstudy + ".0.2"
	oidJobEnded   = oidUnderstudy + ".0.3"
	oidDigest     = oidUnderstudy + ".0.4"
	oidTest       = oidUnderstudy + ".0.5"

	oidID       = oidUnderstudy + ".1.1.0"
	oidKind     = oidUnderstudy + ".1.2.0"
	oidSeverity = oidUnderstudy + ".1.3.0"
	oidMessage  = oidUnderstudy + ".1.4.0"
	oidGroup    = oidUnderstudy + ".1.5.0"
	oidHost     = oidUnderstudy + ".1.6.0"
	oidSince    = oidUnderstudy + ".1.7.0"
	oidJob      = oidUnderstudy + ".1.8.0"
	oidCount    = oidUnderstudy + ".1.9.0"
	oidLink     = oidUnderstudy + ".1.10.0"
)

const (
	oidUptime = ".1.3.6.1.2.1.1.3.0"     // sysUpTime.0
	oidTrap   = ".1.3.6.1.6.3.1.1.4.1.0" // snmpTrapOID.0
	maxText   = 255                      // octets of a text: the size that the MIB names
	maxList   = 900                      // octets of the list of a digest, so that a packet fits an Ethernet frame
)

// snmpSender sends traps or informs.
type snmpSender struct {
	api.SNMPChannel
	engine identity
	clock  func() time.Time
}

func (s snmpSender) send(ctx context.Context, m message) (string, error) {
	g := &gosnmp.GoSNMP{
		Target: s.Host, Port: uint16(s.Port), Transport: "udp", Context: ctx, MaxOids: gosnmp.MaxOids,
		// An inform is sent three times. Beyond that the queue tries again.
		Timeout: 3 * time.Second, Retries: 2,
	}
	if s.Version == "v3" {
		s.secure(g)
	} else {
		g.Version, g.Community = gosnmp.Version2c, s.Community.Reveal()
	}
	if err := g.Connect(); err != nil {
		return "", unreachable(ctx, err)
	}
	defer g.Conn.Close()
	answer, err := g.SendTrap(gosnmp.SnmpTrap{Variables: s.variables(m), IsInform: s.Inform})
	if err != nil {
		return "", s.explain(ctx, err)
	}
	if !s.Inform {
		return "sent; a trap is not acknowledged, an inform is", nil
	}
	if answer.PDUType != gosnmp.GetResponse || answer.Error != gosnmp.NoError {
		return "", s.explain(ctx, fmt.Errorf("the manager answered %s, %s", answer.PDUType, answer.Error))
	}
	return "the manager acknowledged", nil
}

// secure makes it version 3 with authPriv. The sender of a trap is the engine whose id and time count; for an inform it is
// the receiver, which is asked first.
func (s snmpSender) secure(g *gosnmp.GoSNMP) {
	auth := map[string]gosnmp.SnmpV3AuthProtocol{"sha": gosnmp.SHA, "sha224": gosnmp.SHA224, "": gosnmp.SHA256, "sha256": gosnmp.SHA256,
		"sha384": gosnmp.SHA384, "sha512": gosnmp.SHA512}[s.AuthProtocol]
	priv := map[string]gosnmp.SnmpV3PrivProtocol{"": gosnmp.AES, "aes": gosnmp.AES, "aes192": gosnmp.AES192, "aes256": gosnmp.AES256}[s.PrivProtocol]
	usm := &gosnmp.UsmSecurityParameters{UserName: s.User, AuthenticationProtocol: auth, AuthenticationPassphrase: s.AuthPassword.Reveal(),
		PrivacyProtocol: priv, PrivacyPassphrase: s.PrivPassword.Reveal()}
	if !s.Inform {
		usm.AuthoritativeEngineID = string(s.engine.engine())
		usm.AuthoritativeEngineBoots = s.engine.Boots
		usm.AuthoritativeEngineTime = uint32(s.engine.uptime(s.clock()) / time.Second)
	}
	g.Version, g.SecurityModel, g.MsgFlags, g.SecurityParameters = gosnmp.Version3, gosnmp.UserSecurityModel, gosnmp.AuthPriv, usm
	g.ContextEngineID = string(s.engine.engine())
}

func (s snmpSender) explain(ctx context.Context, err error) error {
	r := &refusal{err: timedOut(ctx, err), hint: "Check address, port and firewall, and that the manager has the same community, or the same user, passwords and protocols."}
	switch {
	case errors.Is(err, gosnmp.ErrUnknownUsername):
		r.hint = "The manager does not know the user."
	case errors.Is(err, gosnmp.ErrWrongDigest):
		r.hint = "The manager has another authentication password or protocol."
	case errors.Is(err, gosnmp.ErrDecryption):
		r.hint = "The manager has another privacy password or protocol."
	}
	return r
}

// variables are the objects of a notification, in the order that the MIB names.
func (s snmpSender) variables(m message) []gosnmp.SnmpPDU {
	uptime := uint32(s.engine.uptime(s.clock()) / (10 * time.Millisecond)) // hundredths of seconds; it starts anew after 497 days
	head := func(trap string) []gosnmp.SnmpPDU {
		return []gosnmp.SnmpPDU{{Name: oidUptime, Type: gosnmp.TimeTicks, Value: uptime}, {Name: oidTrap, Type: gosnmp.ObjectIdentifier, Value: trap}}
	}
	link := octets(oidLink, m.link())
	switch {
	case m.digest():
		return append(head(oidDigest), octets(oidID, m.ID), number(oidSeverity, severityNumber(m.severity())),
			gosnmp.SnmpPDU{Name: oidCount, Type: gosnmp.Gauge32, Value: uint32(m.Total)}, octets(oidMessage, digestText(m)), link)
	case len(m.Notices) == 0:
		return append(head(oidTest), octets(oidID, m.ID), octets(oidMessage, m.subject()))
	}
	n := m.Notices[0]
	trap := map[string]string{stateFiring: oidAlertBegin, stateResolved: oidAlertEnd, stateEnded: oidJobEnded}[n.State]
	v := append(head(trap), octets(oidID, n.ID), octets(oidKind, n.Kind), number(oidSeverity, severityNumber(n.Severity)),
		octets(oidMessage, short(n.Message, maxText)), octets(oidGroup, n.GroupName))
	if n.State == stateEnded {
		return append(v, octets(oidJob, n.Job), link)
	}
	return append(v, octets(oidHost, n.HostName), octets(oidSince, n.Since.UTC().Format(time.RFC3339)), link)
}

func octets(oid, text string) gosnmp.SnmpPDU {
	return gosnmp.SnmpPDU{Name: oid, Type: gosnmp.OctetString, Value: []byte(short(text, 1024))}
}

func number(oid string, n int) gosnmp.SnmpPDU {
	return gosnmp.SnmpPDU{Name: oid, Type: gosnmp.Integer, Value: n}
}

// severityNumber is that of UnderstudyLevel.
func severityNumber(s api.Severity) int {
	switch s {
	case api.SeverityInfo:
		return 1
	case api.SeverityWarning:
		return 2
	}
	return 3
}

// digestText sums a digest up, and lists as many of its parts as fit.
func digestText(m message) string {
	var b strings.Builder
	b.WriteString(m.counts())
	for _, n := range m.Notices {
		line := "; " + n.subject()
		if b.Len()+len(line) > maxList {
			b.WriteString("; ...")
			break
		}
		b.WriteString(line)
	}
	return b.String()
}

// short is text of so many bytes at most, on one line.
func short(text string, limit int) string { return string(cutUTF8([]byte(oneLine(text)), limit)) }
