package replication

import (
	"fmt"
	"time"

	"understudy/api"
)

// expiresSoon is how long before its end a certificate is an alert: time enough to have it renewed.
const expiresSoon = 30 * 24 * time.Hour

// keyOwnAlert is where the alert about the appliance itself is kept in bucketSystem: a restart does not begin it anew.
const keyOwnAlert = "own-alert"

func (e *Engine) loadOwnAlert() error {
	if err := e.loadSystem(keyOwnAlert, &e.ownAlert); err != nil {
		return fmt.Errorf("load the alert about the appliance: %w", err)
	}
	return nil
}

// judgeCertificate begins and ends the alert about the certificate of the appliance.
func (e *Engine) judgeCertificate(now time.Time) error {
	if e.Certificate == nil {
		return nil
	}
	c, err := e.Certificate()
	if err != nil {
		return err
	}
	e.mu.Lock()
	on := e.ownAlert
	e.mu.Unlock()
	if c.NotAfter.Sub(now) >= expiresSoon {
		if on == nil {
			return nil
		}
		return e.putOwnAlert(nil, "deleted", alertOfAppliance(*on), "over: "+on.Message)
	}
	a := expiring(c, now)
	action := "created"
	if a.Since = now; on != nil {
		if a.Since, action = on.Since, "updated"; a == *on {
			return nil
		}
	}
	return e.putOwnAlert(&a, action, alertOfAppliance(a), a.Message)
}

func expiring(c api.Certificate, now time.Time) api.Alert {
	a := api.Alert{Kind: api.AlertCertificate, Message: "the certificate of the appliance expires on " + c.NotAfter.UTC().Format(time.DateOnly),
		Hint: "Have it renewed and replace it (certificate replace; in the console: Settings, Certificate)."}
	if !c.NotAfter.After(now) {
		a.Message = "the certificate of the appliance expired on " + c.NotAfter.UTC().Format(time.DateOnly)
	}
	if c.SelfMade {
		a.Hint = "Restart the appliance: it makes itself a new one."
	}
	return a
}

// putOwnAlert is durable when it returns; nil: there is none any more. Only Observe changes it.
func (e *Engine) putOwnAlert(a *api.Alert, action string, about api.ActiveAlert, message string) error {
	keep := func() error { return e.Store.Put(bucketSystem, keyOwnAlert, a) }
	if a == nil {
		keep = func() error { return e.Store.Delete(bucketSystem, keyOwnAlert) }
	}
	if err := keep(); err != nil {
		return err
	}
	e.mu.Lock()
	e.ownAlert = a
	e.mu.Unlock()
	e.publishAlert(action, about, message)
	return nil
}

func alertOfAppliance(a api.Alert) api.ActiveAlert {
	return api.ActiveAlert{ID: "appliance." + a.Kind, Kind: a.Kind, Severity: api.SeverityOf(a.Kind), Since: a.Since, Message: a.Message, Hint: a.Hint}
}
