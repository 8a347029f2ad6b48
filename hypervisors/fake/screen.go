package fake

import (
	"context"
	"fmt"
	picture "image"
	"image/color"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"

	"understudy/hypervisors"
)

// Screenshot draws the name and the state of the machine, white on black as a text console does.
func (c *conn) Screenshot(ctx context.Context, vm string) (picture.Image, error) {
	if err := c.lock(ctx, "look at", "machine "+vm); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	if err := c.capable(c.hv.caps.Screen, "screenshots"); err != nil {
		return nil, fail("look at", "machine "+vm, err, "")
	}
	m, err := c.machine(vm)
	if err == nil && m.state == hypervisors.Off {
		err = fmt.Errorf("%w: it is off", hypervisors.ErrInvalid)
	}
	if err != nil {
		return nil, fail("look at", "machine "+vm, err, "")
	}
	return draw(m.hw.Name, string(m.state)), nil
}

func draw(lines ...string) picture.Image {
	const width, height = 320, 200
	screen := picture.NewPaletted(picture.Rect(0, 0, width, height), color.Palette{color.Black, color.White})
	pen := font.Drawer{Dst: screen, Src: picture.White, Face: basicfont.Face7x13}
	for i, line := range lines {
		pen.Dot = fixed.P(16, 32+20*i)
		pen.DrawString(line)
	}
	return screen
}
