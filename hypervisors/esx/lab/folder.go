package lab

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/soap"
)

// serve what the simulator serves otherwise, or to anybody.
func (l *Lab) serve(mux *http.ServeMux) {
	for _, method := range []string{"GET", "PUT"} { // GET answers HEAD as well
		mux.HandleFunc(method+" /folder/", l.serveFolder)
	}
	mux.HandleFunc("POST /sdk", func(w http.ResponseWriter, r *http.Request) {
		if l.orders.busyNow() {
			http.Error(w, "the service is not ready", http.StatusServiceUnavailable)
			return
		}
		l.model.Service.ServeSDK(w, r)
	})
}

// serveFolder reads and writes files of datastores: whole or by Range, and whole.
func (l *Lab) serveFolder(w http.ResponseWriter, r *http.Request) {
	if l.orders.busyNow() {
		http.Error(w, "the service is not ready", http.StatusServiceUnavailable)
		return
	}
	if !l.signedIn(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "sign in first", http.StatusUnauthorized)
		return
	}
	l.orders.mu.Lock()
	answer := l.orders.folder
	l.orders.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	name := r.URL.Query().Get("dsName")
	if l.datastore[name] == "" || r.URL.Query().Get("dcPath") == "" {
		http.Error(w, "no such datastore", http.StatusNotFound)
		return
	}
	p := object.DatastorePath{Datastore: name, Path: strings.TrimPrefix(r.URL.Path, "/folder/")}
	if l.busy(p.String()) {
		http.Error(w, "the file is in use", http.StatusConflict)
		return
	}
	local := l.local(p.String())
	if r.Method == http.MethodPut {
		l.receive(w, r, p.String(), local)
		return
	}
	f, err := os.Open(local)
	if err != nil {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.IsDir() {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", st.ModTime(), f)
}

// receive a whole file; there is no writing of parts.
func (l *Lab) receive(w http.ResponseWriter, r *http.Request, p, local string) {
	if r.Header.Get("Content-Range") != "" {
		http.Error(w, "parts of files cannot be written", http.StatusNotImplemented)
		return
	}
	if l.orders.noSpace(p) != nil {
		http.Error(w, "no space left", http.StatusInsufficientStorage)
		return
	}
	if err := put(local, r.Body); err != nil {
		l.log.Warn("receive a file", "file", p, "error", err)
		http.Error(w, "cannot write the file", http.StatusInternalServerError)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.images {
		if flat(i.path) == p {
			i.version++
			l.untrack(i)
		}
	}
	w.WriteHeader(http.StatusCreated)
}

func put(local string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(local), 0o700); err != nil {
		return err
	}
	f, err := os.Create(local)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// busy says whether a file is the content of a disk that a running machine writes to.
func (l *Lab) busy(p string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.images {
		if (flat(i.path) == p || marker(i.path) == p) && l.use(i, nil) == writing {
			return true
		}
	}
	return false
}

// signedIn says whether a request comes from somebody who signed in: by password or by session.
func (l *Lab) signedIn(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		return user == l.User && password == l.Password
	}
	c, err := r.Cookie(soap.SessionCookieName)
	if err != nil || c.Value == "" {
		return false
	}
	// The simulator keeps its sessions to itself, so it is asked something that needs one.
	const ask = `<?xml version="1.0"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>` +
		`<CurrentTime xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></CurrentTime></Body></Envelope>`
	q := httptest.NewRequest(http.MethodPost, "/sdk", bytes.NewReader([]byte(ask)))
	q.AddCookie(c)
	answer := httptest.NewRecorder()
	l.model.Service.ServeSDK(answer, q)
	return answer.Code == http.StatusOK
}
