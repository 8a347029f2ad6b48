package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"understudy/api"
)

const (
	// cookieName begins so that browsers take it over TLS only, for this host alone, and from nobody else below it.
	cookieName = "__Host-understudy"
	csrfHeader = "X-CSRF-Token"
	// maxCredential bounds what is looked at, in bytes.
	maxCredential = 256
)

func cookieOf(value api.Secret) string {
	c := http.Cookie{Name: cookieName, Value: value.Reveal(), Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
	return c.String()
}

func noCookie() string {
	c := http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
	return c.String()
}

// csrfOf derives what the console must send beside the cookie: foreign pages can make a browser send the cookie, but they
// can read neither of the two.
func csrfOf(cookie string) string {
	mac := hmac.New(sha256.New, []byte(cookie))
	mac.Write([]byte("csrf"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// safe methods change nothing.
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// foreign tells whether a browser says that another page than ours made the request. Programs say nothing.
func foreign(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host == "" || u.Host != r.Host
}

// checkCSRF lets through what our own page sent on behalf of the cookie's owner.
func checkCSRF(c *gin.Context, cookie string) error {
	switch {
	case safe(c.Request.Method):
		return nil
	case foreign(c.Request):
		return errForeign()
	case !hmac.Equal([]byte(c.GetHeader(csrfHeader)), []byte(csrfOf(cookie))):
		return api.Errorf(api.CodeForbidden, "Send what GET /session gives as csrf.", "the header %s is missing or wrong", csrfHeader)
	}
	return nil
}

func errForeign() error {
	return api.Errorf(api.CodeForbidden, "Use the console at the appliance's own address.", "the request comes from a foreign page")
}
