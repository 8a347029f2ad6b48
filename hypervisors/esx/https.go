package esx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/soap"

	"understudy/hypervisors"
)

// webFile is the content of a disk, asked for range by range.
type webFile struct {
	host *host
	i    diskFile
	path object.DatastorePath
	ctx  context.Context //nolint:containedctx // io.ReaderAt knows none; it ends with close
}

// webFile opens a disk by the host's web server, after one byte has shown that it gives ranges. end may be called twice.
func (h *host) webFile(ctx context.Context, i diskFile) (_ *webFile, end func(), err error) {
	if !i.flat {
		return nil, nil, fmt.Errorf("%w: the disk stands on others, and its files tell only what differs", hypervisors.ErrIncapable)
	}
	w := &webFile{host: h, i: i}
	if !w.path.FromString(strings.TrimSuffix(i.file, ".vmdk") + "-flat.vmdk") {
		return nil, nil, fmt.Errorf("%w: %q is no file of a datastore", hypervisors.ErrInvalid, i.file)
	}
	w.ctx, end = context.WithCancel(context.WithoutCancel(ctx))
	if _, err := w.get(ctx, make([]byte, 1), 0); err != nil {
		end()
		return nil, nil, err
	}
	return w, end, nil
}

// ReadAt implements io.ReaderAt.
func (w *webFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= w.i.size {
		return 0, io.EOF
	}
	n, err := w.get(w.ctx, p[:min(int64(len(p)), w.i.size-off)], off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (w *webFile) get(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	u := object.NewDatastoreURL(*w.host.client.URL(), w.i.dc.InventoryPath, w.path.Datastore, w.path.Path)
	d := soap.DefaultDownload
	d.Headers = map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1)}
	res, err := w.host.client.DownloadRequest(ctx, u, &d)
	if err == nil && res.StatusCode == http.StatusUnauthorized { // the session is lost; whoever asks the host anything brings it back
		_ = res.Body.Close()
		if _, err := w.host.who(ctx); err != nil {
			return 0, err
		}
		res, err = w.host.client.DownloadRequest(ctx, u, &d)
	}
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		return 0, fmt.Errorf("%w: the web server gives whole files only", hypervisors.ErrIncapable)
	case http.StatusConflict:
		return 0, fmt.Errorf("%w: the host says that the file is in use", hypervisors.ErrInUse)
	case http.StatusServiceUnavailable:
		return 0, fmt.Errorf("%w: %s", hypervisors.ErrUnreachable, res.Status)
	default:
		return 0, errors.New("the web server answers " + res.Status)
	}
	return io.ReadFull(res.Body, p)
}
