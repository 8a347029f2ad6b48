package directory

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"understudy/api"
)

// journey is a sign-in that is under way at the provider. The browser keeps it, sealed: strangers who begin many fill
// nothing here.
type journey struct {
	State, Nonce, Verifier, Issuer string
	Until                          time.Time
}

var sealedFor = []byte("understudy sign-in")

// chance makes 256 bits that nobody guesses, in 43 characters.
func chance() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (d *Directory) seal(j journey) api.Secret {
	aead, err := chacha20poly1305.NewX(d.key)
	if err != nil {
		panic(err) // the key has the right length
	}
	text, err := json.Marshal(j)
	if err != nil {
		panic(err) // texts and a time
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(text)+aead.Overhead())
	rand.Read(nonce)
	return api.NewSecret(base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, text, sealedFor)))
}

func (d *Directory) open(cookie api.Secret) (j journey, err error) {
	aead, err := chacha20poly1305.NewX(d.key)
	if err != nil {
		panic(err)
	}
	b, err := base64.RawURLEncoding.DecodeString(cookie.Reveal())
	if err != nil || len(b) < aead.NonceSize() {
		return j, errors.New("no sign-in was begun in this browser")
	}
	text, err := aead.Open(nil, b[:aead.NonceSize()], b[aead.NonceSize():], sealedFor)
	if err != nil {
		return j, errors.New("no sign-in was begun in this browser, or the appliance was started again meanwhile")
	}
	return j, json.Unmarshal(text, &j)
}

// maxSpent bounds the memory for sign-ins that have ended. Beyond it the oldest is forgotten; that its code is good only
// once is then up to the provider alone.
const maxSpent = 10_000

// spent are the states of sign-ins that came back: each is good once.
type spent struct {
	mu  sync.Mutex
	all map[string]time.Time // until when they must be remembered
}

// use tells whether a state comes for the first time.
func (s *spent) use(state string, until, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.all[state]; known {
		return false
	}
	if s.all == nil {
		s.all = map[string]time.Time{}
	}
	oldest := state
	for other, end := range s.all {
		if now.After(end) {
			delete(s.all, other)
		} else if oldest == state || end.Before(s.all[oldest]) {
			oldest = other
		}
	}
	if len(s.all) >= maxSpent {
		delete(s.all, oldest)
	}
	s.all[state] = until
	return true
}

// web is how a provider is asked: at the addresses that it names and no others, with bounds.
func (d *Directory) web(o api.OIDCSettings) *http.Client {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: roots(o.CA), MinVersion: tls.VersionTLS12}}
	return &http.Client{Transport: small{transport}, Timeout: d.Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// maxAnswer bounds an answer of a provider, in bytes.
const maxAnswer = 1 << 20

// small cuts answers off that are too long.
type small struct{ next http.RoundTripper }

func (s small) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}
