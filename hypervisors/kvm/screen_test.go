package kvm

import (
	"bytes"
	"fmt"
	picture "image"
	"image/color"
	"image/png"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

func somePNG(t testing.TB, width, height int) []byte {
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, picture.NewGray(picture.Rect(0, 0, width, height))))
	return b.Bytes()
}

func TestScreenshotIsDecoded(t *testing.T) {
	shot, err := decodeShot("image/png", somePNG(t, 7, 5))
	require.NoError(t, err)
	require.Equal(t, picture.Rect(0, 0, 7, 5), shot.Bounds())
	shot, err = decodeShot("image/x-portable-pixmap", []byte("P6\n2 1\n255\n\x01\x02\x03\n\n\xff"))
	require.NoError(t, err)
	require.Equal(t, color.RGBA{1, 2, 3, 255}, shot.At(0, 0))
	require.Equal(t, color.RGBA{10, 10, 255, 255}, shot.At(1, 0), "pixels that look like white space are pixels")
	for kind, data := range map[string][]byte{
		"image/gif":               nil,
		"image/png":               somePNG(t, maxShotSide+1, 1),
		"image/x-portable-pixmap": []byte("P6\n2 2\n255\nxyz"),
	} {
		_, err := decodeShot(kind, data)
		require.Error(t, err, kind)
	}
}

// FuzzScreenshot: whatever a host sends as a picture is refused, or is one of the size that it says.
func FuzzScreenshot(f *testing.F) {
	f.Add(true, somePNG(f, 3, 2))
	f.Add(false, []byte("P6\n2 1\n255\nabcdef"))
	f.Add(false, []byte("P6\n8192 8192\n255\n"))
	f.Add(false, []byte("P6\n-1 9999999999\n255\nabc"))
	f.Fuzz(func(t *testing.T, isPNG bool, data []byte) {
		kind := "image/x-portable-pixmap"
		if isPNG {
			kind = "image/png"
		}
		shot, err := decodeShot(kind, data)
		if err != nil {
			return
		}
		size := shot.Bounds().Size()
		require.NoError(t, checkShotSize(size.X, size.Y))
		if !isPNG {
			require.GreaterOrEqual(t, len(data), 3*size.X*size.Y)
		}
	})
}

// A real machine shows what its firmware wrote on the screen, over a restart of libvirtd too; one without a screen says so.
func TestScreenshot(t *testing.T) {
	_, vm := standingGuest(t)
	ctx := testContext(t)
	h := openHost(t, testLab.Source.URI)
	for _, when := range []string{"at first", "after a restart of libvirtd"} {
		shot, err := h.Screenshot(ctx, vm)
		require.NoError(t, err, when)
		require.GreaterOrEqual(t, shot.Bounds().Dx(), 320, when)
		require.GreaterOrEqual(t, shot.Bounds().Dy(), 200, when)
		require.Greater(t, colours(shot), 1, "it is not empty")
		require.NoError(t, testLab.Source.Restart(ctx))
	}
	name, off := newMachine(t, "qcow2")
	virsh(t, testLab.Source, "start", name)
	_, err := h.Screenshot(ctx, off)
	require.ErrorIs(t, err, hypervisors.ErrIncapable)
}

func colours(shot picture.Image) int {
	seen := map[string]bool{}
	b := shot.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, bl, _ := shot.At(x, y).RGBA()
			seen[fmt.Sprint(r, g, bl)] = true
		}
	}
	return len(seen)
}
