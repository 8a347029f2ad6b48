package notify

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// enterprise is the number below which the appliance names its own things, in SNMP and in syslog. It is the one that RFC
// 5612 sets aside for documentation: nobody has registered one for Understudy yet. Whoever does changes it here and in
// UNDERSTUDY-MIB.txt, and nowhere else.
const enterprise = 32473

// identity is the appliance as an SNMP engine (RFC 3411): the sender of traps is the one whose engine id counts, and a
// receiver refuses what seems to come from before the engine's last start.
type identity struct {
	ID      string    `json:"id"` // 16 hexadecimal digits, made at the first start
	Boots   uint32    `json:"boots"`
	started time.Time // of this life
}

// loadIdentity counts this start.
func (n *Notifier) loadIdentity() error {
	err := n.Store.Each(bucketState, func(key string, decode func(any) error) error {
		if key != "engine" {
			return nil
		}
		return decode(&n.identity)
	})
	if err != nil {
		return err
	}
	if n.identity.ID == "" {
		var id [8]byte
		rand.Read(id[:])
		n.identity.ID = hex.EncodeToString(id[:])
	}
	if n.identity.Boots < 1<<31-1 { // RFC 3414, 2.2.2: it stays there
		n.identity.Boots++
	}
	n.identity.started = n.Clock()
	return n.Store.Put(bucketState, "engine", n.identity)
}

// engine is the engine id: the enterprise number with the highest bit set, 5 for what follows, and 8 octets.
func (i identity) engine() []byte {
	id, _ := hex.DecodeString(i.ID) // made here
	b := binary.BigEndian.AppendUint32(nil, 1<<31|enterprise)
	return append(append(b, 5), id...)
}

// uptime is the time since the start.
func (i identity) uptime(now time.Time) time.Duration { return max(now.Sub(i.started), 0) }
