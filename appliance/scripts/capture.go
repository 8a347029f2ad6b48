package scripts

import (
	"fmt"
	"strings"
	"sync"
)

// capture keeps the beginning and the end of what is written to it, MaxOutput together: the beginning says what was
// tried, the end why it failed.
type capture struct {
	mu      sync.Mutex
	head    []byte
	tail    []byte // the newest half, at most twice as long until it is cut
	dropped int
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(p)
	if room := MaxOutput/2 - len(c.head); room > 0 {
		k := min(room, len(p))
		c.head, p = append(c.head, p[:k]...), p[k:]
	}
	c.tail = append(c.tail, p...)
	if over := len(c.tail) - MaxOutput/2; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
		c.dropped += over
	}
	return n, nil
}

// String is valid UTF-8.
func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := string(c.head)
	if c.dropped > 0 {
		text += fmt.Sprintf("\n… %d bytes left out …\n", c.dropped)
	}
	return strings.ToValidUTF8(text+string(c.tail), "\uFFFD")
}
