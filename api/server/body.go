package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"understudy/api"
)

// bodyLimit is the size of the largest body in bytes, by route.
func bodyLimit(route string) int64 {
	if route == prefix+"/restore" {
		return maxRestore
	}
	return maxBody
}

// readBody takes the whole body before anything looks at it, bounded in size and time. The deadline is lifted again at
// once: it bounds the question, not the time in which hosts are asked and the caller is watched for leaving.
func (s *Server) readBody(c *gin.Context) {
	if c.Request.Body == nil || c.Request.Body == http.NoBody {
		return
	}
	conn := http.NewResponseController(c.Writer)
	// Only a server on a real connection has deadlines; a recorder in a test has none and needs none.
	_ = conn.SetReadDeadline(time.Now().Add(s.bodyTimeout))
	limit := bodyLimit(c.FullPath())
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, limit))
	_ = conn.SetReadDeadline(time.Time{})
	if err == nil {
		c.Request.Body = io.NopCloser(bytes.NewReader(body))
		return
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		abort(c, http.StatusRequestEntityTooLarge, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("the request is larger than %d MiB", limit>>20)})
		return
	}
	abort(c, http.StatusBadRequest, &api.Error{Code: api.CodeInvalid, Message: "the request did not arrive in full"})
}
