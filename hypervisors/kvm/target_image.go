package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"

	"understudy/hypervisors"
)

// Clusters of a disk's overlays are as large as the blocks that are compared; those of block maps are small, because
// one changed block touches 32 bytes of its map.
const (
	dataCluster      = "64k"
	dataClusterBytes = 64 << 10
	mapCluster       = "4k"
)

// overlay is an image to be made.
type overlay struct {
	file    string // full path
	backing string // as it will stand in the file: a name beside it or an absolute path; empty: none
	format  string // of the backing image
	size    int64
	cluster string
	zstd    bool // how clusters are compressed, where they are; without it, as QEMU likes
}

// makeImages creates empty overlays, all with one command of the host. Nothing is durable yet.
func makeImages(ctx context.Context, p place, overlays []overlay) error {
	return runImages(ctx, p, createCommands(overlays))
}

// replaceImages creates overlays and then, when all are whole and durable, gives them the names of others that they
// replace, one after another. Until then they have those names with a suffix.
func replaceImages(ctx context.Context, p place, dir string, overlays []overlay) error {
	var temporary, moves []string
	for i := range overlays {
		final := overlays[i].file
		overlays[i].file += ".new"
		temporary = append(temporary, shellQuote(overlays[i].file))
		moves = append(moves, "mv -fT -- "+shellQuote(overlays[i].file)+" "+shellQuote(final))
	}
	lines := append(createCommands(overlays), "sync -- "+strings.Join(temporary, " "))
	lines = append(lines, moves...)
	return runImages(ctx, p, append(lines, "sync -- "+shellQuote(dir)))
}

func createCommands(overlays []overlay) []string {
	var lines []string
	for _, o := range overlays {
		options := "cluster_size=" + o.cluster
		if o.zstd {
			options += ",compression_type=zstd"
		}
		words := []string{"qemu-img", "create", "-q", "-f", "qcow2", "-o", options}
		if o.backing != "" {
			words = append(words, "-F", o.format, "-b", o.backing)
		}
		words = append(words, o.file, strconv.FormatInt(o.size, 10))
		for i := range words {
			words[i] = shellQuote(words[i])
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return lines
}

func runImages(ctx context.Context, p place, lines []string) error {
	_, err := p.Run(ctx, nil, "sh", "-ec", strings.Join(lines, "\n"))
	if err != nil {
		return &hypervisors.Error{Op: "make", Subject: "images", Err: noSpace(err)}
	}
	return nil
}

// backingName reads which image a qcow2 file names as the one below it; empty: none. It does not open that one.
func backingName(ctx context.Context, p place, file string) (string, error) {
	out, err := p.Run(ctx, nil, "qemu-img", "info", "-U", "-f", "qcow2", "--output=json", file)
	if err != nil {
		return "", imageError("inspect", file, err)
	}
	var info struct {
		Backing string `json:"backing-filename"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return "", fmt.Errorf("qemu-img info %s: %w", file, err)
	}
	return info.Backing, nil
}

// foldImage lets the image over take the data below it over, so that under is no longer needed. What over shows is the
// same at every moment, and so is what other images show that stand on over:
//
//  1. the data of over is written into under. All that changes there is hidden by over, which keeps its own copy;
//  2. under, made durable, shows the same as over now, and is renamed to it.
//
// It may be repeated after a kill at any moment. Both must be in the same folder, over directly on under, and nobody
// else may have either open.
func foldImage(ctx context.Context, p place, dir string, f fold) error {
	under, over := path.Join(dir, f.Under), path.Join(dir, f.Over)
	there, err := exists(ctx, p, under)
	if err != nil {
		return err
	}
	if !there {
		return folded(ctx, p, dir, f)
	}
	// -b: into that image and no other, ever. -d: leave over as it is.
	if _, err := p.Run(ctx, nil, "qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b", under, over); err != nil {
		return imageError("merge", over, err)
	}
	if err := syncPaths(ctx, p, under); err != nil {
		return err
	}
	return renameFile(ctx, p, under, over)
}

// folded makes sure that an image below is missing because of an earlier fold, and not because somebody removed it.
func folded(ctx context.Context, p place, dir string, f fold) error {
	backing, err := backingName(ctx, p, path.Join(dir, f.Over))
	if err != nil {
		return err
	}
	if backing == f.Under {
		return &hypervisors.Error{Op: "merge", Subject: path.Join(dir, f.Over),
			Err:  fmt.Errorf("the image below it, %s, %w", f.Under, hypervisors.ErrNotFound),
			Hint: "Somebody removed the file. The points that need it are lost; delete the replica and protect the machine anew."}
	}
	return nil
}

// settleImage writes the whole chain of top into the image base at its bottom, and makes that durable. It may be repeated.
func settleImage(ctx context.Context, p place, base ground, size int64, top string) error {
	if size > base.Size {
		if _, err := p.Run(ctx, nil, "qemu-img", "resize", "-q", "-f", base.Format, base.Path, strconv.FormatInt(size, 10)); err != nil {
			return imageError("grow", base.Path, err)
		}
	}
	if _, err := p.Run(ctx, nil, "qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b", base.Path, top); err != nil {
		return imageError("settle", base.Path, err)
	}
	return syncPaths(ctx, p, base.Path)
}

// imageError says which image a failed command was about.
func imageError(op, file string, err error) error {
	if err == nil {
		return nil
	}
	if strings.Contains(err.Error(), `"write" lock`) || strings.Contains(err.Error(), "is another process using the image") {
		return &hypervisors.Error{Op: op, Subject: "image " + file, Err: fmt.Errorf("%w: %w", hypervisors.ErrInUse, err),
			Hint: "Some program on the host has the image open."}
	}
	return &hypervisors.Error{Op: op, Subject: "image " + file, Err: noSpace(err)}
}

// noSpace gives an error that means a full storage its name.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) && !errors.Is(err, hypervisors.ErrNoSpace) {
		return fmt.Errorf("%w: %w", hypervisors.ErrNoSpace, err)
	}
	return err
}
