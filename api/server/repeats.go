package server

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"understudy/api"
)

// keyParameter is the header in the document.
func keyParameter() *huma.Param {
	most := maxKey
	return &huma.Param{Name: keyHeader, In: "header", Schema: &huma.Schema{Type: huma.TypeString, MaxLength: &most},
		Description: "Chosen anew for each order, such as a UUID. When the same one comes again within 24 hours, it is not carried out twice, and the answer is the same"}
}

// comesAgain answers an order that was carried out before, or that cannot be told apart from one.
func (s *Server) comesAgain(c *gin.Context, route guarded, p api.Principal, body []byte) bool {
	key := c.GetHeader(keyHeader)
	if key == "" || !route.repeatable() {
		return false
	}
	if len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
		s.refuse(c, &api.Error{Code: api.CodeInvalid, Field: keyHeader, Message: "the key is too long, or has characters that are not visible",
			Hint: "Use a UUID, or up to 128 letters and digits."})
		return true
	}
	request := strings.Join([]string{c.Request.Method, c.Request.URL.Path, c.Request.URL.RawQuery, string(body)}, "\n")
	kept, err := s.access.BeginOrder(c.Request.Context(), p, key, request)
	switch {
	case err != nil:
		s.refuse(c, err)
		return true
	case kept == nil:
		return false
	}
	for name, value := range kept.Header {
		c.Header(name, value)
	}
	c.Header("Idempotency-Replayed", "true")
	c.Data(kept.Status, kept.Header["Content-Type"], kept.Body)
	c.Abort()
	return true
}

// endOrder keeps the answer to an order, if it was carried out. One that was refused may come again; of one that failed,
// nobody knows how far it came.
func (s *Server) endOrder(c *gin.Context, route guarded, p api.Principal, held *heldWriter) {
	key := c.GetHeader(keyHeader)
	if key == "" || !route.repeatable() {
		return
	}
	var err error
	switch status := held.Status(); {
	case status >= http.StatusInternalServerError || !json.Valid(held.body.Bytes()):
		s.access.LoseOrder(p, key)
	case status >= http.StatusBadRequest:
		err = s.access.EndOrder(p, key, nil)
	default:
		answer := &api.Answer{Status: status, Header: map[string]string{}, Body: json.RawMessage(held.body.String())}
		for _, name := range []string{"Content-Type", "Location", "ETag"} {
			if value := held.Header().Get(name); value != "" {
				answer.Header[name] = value
			}
		}
		err = s.access.EndOrder(p, key, answer)
	}
	if err != nil {
		s.log.Error("the answer to an order is not kept", "action", route.action, "error", err)
	}
}

func (s *Server) loseOrder(c *gin.Context, route guarded, p api.Principal) {
	if key := c.GetHeader(keyHeader); key != "" && route.repeatable() {
		s.access.LoseOrder(p, key)
	}
}
