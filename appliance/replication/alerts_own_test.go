package replication_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// A certificate that ends soon is one alert, over restarts, until there is another one.
func TestExpiringCertificate(t *testing.T) {
	const day = 24 * time.Hour
	w := newWorld(t)
	shown := api.Certificate{NotAfter: w.clock().Add(31 * day)}
	w.certificate = func() (api.Certificate, error) { return shown, nil }
	w.restart()
	w.engine.Observe(t.Context())
	actions, _ := w.hostAlerts(api.AlertCertificate, "")
	require.Empty(t, actions)

	w.pass(2 * day)
	w.engine.Observe(t.Context())
	w.engine.Observe(t.Context())
	all, err := w.engine.ListAlerts(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, all, 1)
	began := all[0].Since
	require.Equal(t, api.ActiveAlert{ID: "appliance.certificate", Kind: api.AlertCertificate, Severity: api.SeverityWarning, Since: began,
		Message: "the certificate of the appliance expires on " + shown.NotAfter.Format(time.DateOnly),
		Hint:    "Have it renewed and replace it (certificate replace; in the console: Settings, Certificate)."}, all[0])
	w.restart()
	w.engine.Observe(t.Context())
	actions, _ = w.hostAlerts(api.AlertCertificate, "")
	require.Equal(t, []string{"created"}, actions)
	theirs, err := w.engine.ListAlerts(t.Context(), api.Scope{"shop"})
	require.NoError(t, err)
	require.Empty(t, theirs, "who is kept to some groups sees nothing of the appliance")

	w.pass(30 * day)
	w.engine.Observe(t.Context())
	all, err = w.engine.ListAlerts(t.Context(), nil)
	require.NoError(t, err)
	require.Contains(t, all[0].Message, "expired on")
	require.Equal(t, began, all[0].Since)

	shown = api.Certificate{NotAfter: w.clock().Add(29 * day), SelfMade: true}
	w.engine.Observe(t.Context())
	all, err = w.engine.ListAlerts(t.Context(), nil)
	require.NoError(t, err)
	require.Contains(t, all[0].Hint, "Restart")
	shown.NotAfter = w.clock().Add(365 * day)
	w.engine.Observe(t.Context())
	actions, on := w.hostAlerts(api.AlertCertificate, "")
	require.Equal(t, []string{"created", "updated", "updated", "deleted"}, actions)
	require.False(t, on)
	all, err = w.engine.ListAlerts(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, all)
}
