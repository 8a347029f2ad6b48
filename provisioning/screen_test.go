package provisioning_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/png"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/provisioning"
)

func TestScreenshotOfAMachine(t *testing.T) {
	s, hv := stage(t)
	data, err := provisioning.Screenshot(t.Context(), s.Host, s.VM)
	require.NoError(t, err)
	again, err := provisioning.Screenshot(t.Context(), s.Host, s.VM)
	require.NoError(t, err)
	require.Equal(t, data, again)
	config, err := png.DecodeConfig(bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, 320, config.Width)
	require.NoError(t, hv.Crash(s.VM))
	_, err = provisioning.Screenshot(t.Context(), s.Host, s.VM)
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
}

// monitor shows one picture.
type monitor struct {
	hypervisors.Host
	shot image.Image
}

func (monitor) Capabilities() hypervisors.Capabilities { return hypervisors.Capabilities{Screen: true} }

func (m monitor) Screenshot(context.Context, string) (image.Image, error) {
	if m.shot == nil {
		return nil, errors.New("no signal")
	}
	return m.shot, nil
}

// Large screens, and those that compress badly, are made smaller until they fit.
func TestScreenshotIsBounded(t *testing.T) {
	noise := image.NewRGBA(image.Rect(0, 0, 1000, 600))
	random := rand.New(rand.NewPCG(1, 1))
	for i := range noise.Pix {
		noise.Pix[i] = byte(random.Uint32())
	}
	for name, c := range map[string]struct {
		shot  image.Image
		width int
	}{
		"as it is":   {image.NewGray(image.Rect(0, 0, 1280, 256)), 1280},
		"too wide":   {image.NewGray(image.Rect(0, 0, 2560, 360)), 1280},
		"thin":       {image.NewGray(image.Rect(0, 0, 8192, 1)), 1280},
		"noise":      {noise, 500},
		"its origin": {image.NewGray(image.Rect(10, 20, 50, 40)), 40},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := provisioning.Screenshot(t.Context(), monitor{shot: c.shot}, "vm")
			require.NoError(t, err)
			require.LessOrEqual(t, len(data), provisioning.MaxScreenBytes)
			config, err := png.DecodeConfig(bytes.NewReader(data))
			require.NoError(t, err)
			require.Equal(t, c.width, config.Width)
		})
	}
	_, err := provisioning.Screenshot(t.Context(), monitor{}, "vm")
	require.ErrorContains(t, err, "no signal")
}
