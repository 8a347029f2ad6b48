package api_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// FuzzGroupSpec validates what somebody may send. What is accepted survives a trip through JSON and is accepted again;
// what is refused says which field it is about and what to do.
func FuzzGroupSpec(f *testing.F) {
	for _, s := range []string{
		`{"name":"shop","sourceHost":"a","targetHost":"b","machines":[{"vm":"web","checks":[{"kind":"http","address":"http://192.0.2.1:80/","contains":"x","from":"192.0.2.9/24"}]}],"policy":{"rpoSeconds":30,"retention":[{"everySeconds":0,"count":5},{"everySeconds":3600,"forSeconds":86400}]}}`,
		`{"sourceHost":"a","targetHost":"b","machines":[{"vm":"x","checks":[{"kind":"tcp","address":"[2001:db8::1]:22","from":"2001:db8::2/64"},{"kind":"agent"}]},{"vm":"y","replicaName":"x"}],"networks":[{"from":"n","to":"m"}],"policy":{"rpoSeconds":5}}`,
		`{"sourceHost":"a","targetHost":"b","machines":[{"vm":"x","checks":[{"kind":"http","address":"http://[::ffff:192.0.2.1%25eth0]:99999/"}]}],"policy":{"rpoSeconds":-1}}`,
		`{"sourceHost":"a","targetHost":"b","machines":[{"vm":"x","stage":2}],"policy":{"rpoSeconds":5},"runbook":{"stages":[{"stage":1,"waitForChecks":true,"delaySeconds":9,"before":[{"name":"DNS","kind":"script","script":"dns.sh","args":["a"],"onFailure":"continue"}],"after":[{"name":"router","kind":"manual","text":"switch it"}]}]}}`,
		`{"sourceHost":"a","targetHost":"b","machines":[{"vm":"x"}],"policy":{"rpoSeconds":5},"runbook":{"stages":[{"stage":1,"before":[{"name":"a","kind":"script","script":"../x"}]},{"stage":1}]}}`,
		`{"sourceHost":"a","targetHost":"a"}`, `{"machines":[{"vm":" "}]}`, `{}`, `null`, `{"policy":{"retention":[{}]}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var spec api.GroupSpec
		if json.Unmarshal([]byte(text), &spec) != nil {
			return
		}
		err := spec.Validate()
		if err != nil {
			var e *api.Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.Equal(t, api.CodeInvalid, e.Code)
			require.NotEmpty(t, e.Hint)
			require.NotEmpty(t, e.Field)
			require.NotEmpty(t, e.Message)
			return
		}
		require.NotEqual(t, spec.SourceHost, spec.TargetHost)
		names := map[string]bool{}
		for _, m := range spec.Machines {
			name := m.ReplicaName
			if name == "" {
				name = m.VM
			}
			require.False(t, names[name], "two replicas are called %q", name)
			names[name] = true
			require.False(t, strings.ContainsAny(m.ReplicaName, "/\x00\n"), "%q", m.ReplicaName)
		}
		if spec.Runbook != nil {
			for _, s := range spec.Runbook.Stages {
				for _, a := range append(s.Before, s.After...) {
					require.False(t, strings.ContainsAny(a.Script, "/\x00"), "%q", a.Script)
					require.True(t, (a.Script != "") == (a.Kind == "script"), "%+v", a)
				}
			}
		}
		for _, tier := range spec.Policy.Retention {
			require.True(t, tier.Count > 0 || tier.ForSeconds > 0, "a tier has no end")
		}
		again, err := json.Marshal(spec)
		require.NoError(t, err)
		var back api.GroupSpec
		require.NoError(t, json.Unmarshal(again, &back))
		once, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(again), string(once))
		require.NoError(t, back.Validate())
	})
}
