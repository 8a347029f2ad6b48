package provisioning

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"

	"golang.org/x/image/draw"

	"understudy/hypervisors"
)

// Limits of the pictures of screens that are kept.
const (
	MaxScreenWidth = 1280    // pixels
	MaxScreenBytes = 1 << 20 // of PNG
)

// Screenshot gives what a running machine shows now, as a PNG within the limits above. ErrIncapable where the host or the
// machine has nothing to show.
func Screenshot(ctx context.Context, host hypervisors.Host, vm string) ([]byte, error) {
	screen, ok := host.(hypervisors.Screen)
	if !ok || !host.Capabilities().Screen {
		return nil, fmt.Errorf("%w: this host cannot show what machines show", hypervisors.ErrIncapable)
	}
	shot, err := screen.Screenshot(ctx, vm)
	if err != nil {
		return nil, err
	}
	return encodeScreen(shot)
}

// encodeScreen makes the picture as small as it must be, and no smaller.
func encodeScreen(shot image.Image) ([]byte, error) {
	width := min(shot.Bounds().Dx(), MaxScreenWidth)
	for ; width > 0; width /= 2 {
		var b bytes.Buffer
		encoder := png.Encoder{CompressionLevel: png.BestCompression}
		if err := encoder.Encode(&b, scaled(shot, width)); err != nil {
			return nil, fmt.Errorf("keep screenshot: %w", err)
		}
		if b.Len() <= MaxScreenBytes {
			return b.Bytes(), nil
		}
	}
	return nil, fmt.Errorf("%w: a screen of %v cannot be kept", hypervisors.ErrInvalid, shot.Bounds().Size())
}

func scaled(shot image.Image, width int) image.Image {
	from := shot.Bounds()
	if from.Dx() == width {
		return shot
	}
	to := image.NewRGBA(image.Rect(0, 0, width, max(1, from.Dy()*width/from.Dx())))
	draw.CatmullRom.Scale(to, to.Bounds(), shot, from, draw.Src, nil)
	return to
}
