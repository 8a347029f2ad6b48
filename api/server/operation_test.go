package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// The recorder operates, too.
var _ api.Operation = (*recorder)(nil)

func (r *recorder) Certificate(context.Context) (api.Certificate, error) {
	return answerTo[api.Certificate](r, "Certificate")
}

func (r *recorder) ReplaceCertificate(_ context.Context, o api.CertificateOrder) (api.Certificate, error) {
	return answerTo[api.Certificate](r, "ReplaceCertificate", o)
}

func (r *recorder) ResetCertificate(context.Context) (api.Certificate, error) {
	return answerTo[api.Certificate](r, "ResetCertificate")
}

func (r *recorder) Secrets(context.Context) (api.SecretsStatus, error) {
	return answerTo[api.SecretsStatus](r, "Secrets")
}

func (r *recorder) RotateKey(context.Context) (api.SecretsStatus, error) {
	return answerTo[api.SecretsStatus](r, "RotateKey")
}

func (r *recorder) Ready(context.Context) api.Readiness {
	v, _ := answerTo[api.Readiness](r, "Ready")
	return v
}

func (r *recorder) Backup(_ context.Context, o api.BackupOrder, w io.Writer) error {
	if _, err := answerTo[struct{}](r, "Backup", o); err != nil {
		return err
	}
	_, err := w.Write([]byte("a backup"))
	return err
}

func (r *recorder) Restore(_ context.Context, o api.RestoreOrder) (api.Restoration, error) {
	return answerTo[api.Restoration](r, "Restore", o)
}

func (r *recorder) SupportBundle(_ context.Context, w io.Writer) error {
	if _, err := answerTo[struct{}](r, "SupportBundle"); err != nil {
		return err
	}
	_, err := w.Write([]byte("PK a bundle"))
	return err
}

// Every method of api.Operation through the client; secrets arrive, and come back in no answer.
func TestClientMirrorsOperation(t *testing.T) {
	r := &recorder{}
	_, c := start(t, r)
	operation := reflect.TypeFor[api.Operation]()
	for i := range operation.NumMethod() {
		method := operation.Method(i)
		t.Run(method.Name, func(t *testing.T) {
			in := []reflect.Value{reflect.ValueOf(t.Context())}
			var args []any
			var written bytes.Buffer
			for j := 1; j < method.Type.NumIn(); j++ {
				arg := reflect.New(method.Type.In(j)).Elem()
				if arg.Type() == reflect.TypeFor[io.Writer]() {
					in = append(in, reflect.ValueOf(&written))
					continue
				}
				fill(arg)
				in, args = append(in, arg), append(args, arg.Interface())
			}
			out := reflect.ValueOf(c).MethodByName(method.Name).Call(in)
			last := r.last(t)
			require.Equal(t, method.Name, last.method)
			require.Equal(t, args, last.args)
			if method.Name == "Ready" {
				require.Equal(t, last.result, out[0].Interface())
				return
			}
			require.Nil(t, out[len(out)-1].Interface())
			if len(out) == 2 {
				require.Equal(t, last.result, out[0].Interface())
			} else {
				require.Contains(t, written.String(), "a b")
			}
		})
	}
}

func TestReadiness(t *testing.T) {
	r := &recorder{err: io.EOF} // then all is zero: not ready
	url, _ := start(t, r)
	resp, err := http.Get(url + "/readyz")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"ready":false,"reasons":[]}`, string(b))
}

func TestBackupsMayBeLarge(t *testing.T) {
	r := &recorder{}
	url, c := start(t, r)
	data := bytes.Repeat([]byte("x"), 3<<20)
	_, err := c.Restore(t.Context(), api.RestoreOrder{Passphrase: api.NewSecret("some words to try"), Data: data})
	require.NoError(t, err)
	require.Equal(t, data, r.last(t).args[0].(api.RestoreOrder).Data)
	resp, p := send(t, http.MethodPost, url+prefix+"/backup", `{"passphrase":"`+strings.Repeat("x", 2<<20)+`"}`)
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	require.Contains(t, p.Detail, "1 MiB")

	_, p = send(t, http.MethodPost, url+prefix+"/backup", `{"passphrase":"short"}`)
	require.Equal(t, "passphrase", p.Field)
	require.NotContains(t, p.Detail, "short\"")
}

// What JSON writes redacted must be marked in the document, so that nobody expects it in an answer.
func TestSecretsAreWriteOnly(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	secrets := 0
	look = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || typ == reflect.TypeFor[api.Secret]() {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Type == reflect.TypeFor[api.Secret]() && f.Tag.Get("json") != "-" && f.Tag.Get("readOnly") == "" { // a token is shown once, by intent
				secrets++
				require.Equal(t, "true", f.Tag.Get("writeOnly"), "%s.%s", typ, f.Name)
				require.NotEmpty(t, f.Tag.Get("maxLength"), "%s.%s", typ, f.Name)
			}
			look(f.Type)
		}
	}
	client := reflect.TypeOf(clientOf(t))
	for i := range client.NumMethod() {
		m := client.Method(i).Type
		for j := range m.NumIn() {
			look(m.In(j))
		}
		for j := range m.NumOut() {
			look(m.Out(j))
		}
	}
	require.GreaterOrEqual(t, secrets, 3)
}

func clientOf(t *testing.T) any {
	_, c := start(t, &recorder{})
	return c
}
