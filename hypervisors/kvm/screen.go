package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	picture "image"
	"image/png"
	"regexp"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// Limits of a screenshot: far beyond any screen, and little enough to be held in memory.
const (
	maxShotBytes = 64 << 20
	maxShotSide  = 8192 // pixels
)

// Screenshot asks QEMU, through libvirt, for what the first screen shows. libvirt's calls on a stream cannot be
// interrupted: when ctx ends first, the answer is thrown away when it comes.
func (h *host) Screenshot(ctx context.Context, vm string) (picture.Image, error) {
	type answer struct {
		shot picture.Image
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		shot, err := h.screenshot(ctx, vm)
		got <- answer{shot, err}
	}()
	select {
	case a := <-got:
		if a.err != nil && ctx.Err() != nil {
			a.err = errors.Join(ctx.Err(), a.err)
		}
		return a.shot, screenError(vm, a.err)
	case <-ctx.Done():
		return nil, screenError(vm, fmt.Errorf("%w: %w", hypervisors.ErrTimeout, ctx.Err()))
	}
}

func (h *host) screenshot(ctx context.Context, vm string) (shot picture.Image, err error) {
	err = h.onDomain(ctx, vm, func(d *libvirt.Domain) error {
		def, err := define(d)
		if err != nil {
			return err
		}
		if def.state == hypervisors.Off {
			return fmt.Errorf("%w: it is off", hypervisors.ErrInvalid)
		}
		if def.live.Devices == nil || len(def.live.Devices.Videos) == 0 {
			return fmt.Errorf("%w: it has no screen", hypervisors.ErrIncapable)
		}
		kind, data, err := h.receiveShot(ctx, d)
		if err != nil {
			return err
		}
		shot, err = decodeShot(kind, data)
		return err
	})
	return shot, err
}

// receiveShot gives the picture as libvirt sends it, with its media type.
func (h *host) receiveShot(ctx context.Context, d *libvirt.Domain) (kind string, data []byte, err error) {
	c, err := h.conn(ctx)
	if err != nil {
		return "", nil, err
	}
	stream, err := c.NewStream(0)
	if err != nil {
		return "", nil, err
	}
	defer stream.Free()
	if kind, err = d.Screenshot(stream, 0, 0); err != nil {
		return "", nil, err
	}
	var b bytes.Buffer
	err = stream.RecvAll(func(_ *libvirt.Stream, p []byte) (int, error) {
		if b.Len()+len(p) > maxShotBytes {
			return 0, errors.New("too large")
		}
		return b.Write(p)
	})
	if err != nil {
		return "", nil, errors.Join(err, stream.Abort())
	}
	return kind, b.Bytes(), stream.Finish()
}

// decodeShot reads a PNG, or the PPM that older versions send.
func decodeShot(kind string, data []byte) (picture.Image, error) {
	switch kind {
	case "image/png":
		config, err := png.DecodeConfig(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("read picture: %w", err)
		}
		if err := checkShotSize(config.Width, config.Height); err != nil {
			return nil, err
		}
		shot, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("read picture: %w", err)
		}
		return shot, nil
	case "image/x-portable-pixmap":
		return decodePPM(data)
	}
	return nil, fmt.Errorf("a picture of type %q cannot be read", kind)
}

func checkShotSize(width, height int) error {
	if width < 1 || height < 1 || width > maxShotSide || height > maxShotSide || width*height > maxShotBytes/3 {
		return fmt.Errorf("a picture of %d × %d pixels is none of a screen", width, height)
	}
	return nil
}

// ppmHeader is that of the binary form with one byte for each colour, as QEMU writes it: one white space before the pixels.
var ppmHeader = regexp.MustCompile(`^P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s`)

func decodePPM(data []byte) (picture.Image, error) {
	header := ppmHeader.FindSubmatch(data[:min(len(data), 64)])
	if header == nil {
		return nil, errors.New("read picture: no PPM with 8 bits for each colour")
	}
	width, _ := strconv.Atoi(string(header[1])) // it matched
	height, _ := strconv.Atoi(string(header[2]))
	if err := checkShotSize(width, height); err != nil {
		return nil, err
	}
	pixels := data[len(header[0]):]
	if len(pixels) < 3*width*height {
		return nil, errors.New("read picture: it is cut off")
	}
	shot := picture.NewRGBA(picture.Rect(0, 0, width, height))
	for i := range width * height {
		copy(shot.Pix[4*i:], pixels[3*i:3*i+3])
		shot.Pix[4*i+3] = 255
	}
	return shot, nil
}

func screenError(vm string, err error) error {
	if err == nil {
		return nil
	}
	if strings.Contains(err.Error(), "no console") || strings.Contains(err.Error(), "There is no console") {
		err = fmt.Errorf("%w: %w", hypervisors.ErrIncapable, err)
	}
	return powerError("look at", vm, err)
}
