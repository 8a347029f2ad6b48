package notify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func TestRulesChoose(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		all, shop, worst, kinds, off := w.channel("all"), w.channel("shop"), w.channel("worst"), w.channel("kinds"), w.channel("off")
		w.rule("all", nil, all)
		w.rule("all again", nil, all) // told once all the same
		w.rule("shop", func(r *api.RuleSpec) { r.Groups = []string{"shop"} }, shop)
		w.rule("worst", func(r *api.RuleSpec) { r.MinSeverity = api.SeverityCritical }, worst)
		w.rule("kinds", func(r *api.RuleSpec) { r.Kinds = []string{api.AlertHostDown, "failback"} }, kinds)
		w.rule("off", func(r *api.RuleSpec) { r.Enabled = false }, off)
		w.bus.publish(alertEvent("created", "a1", api.AlertHostDown, "", api.SeverityCritical))
		w.bus.publish(alertEvent("updated", "a1", api.AlertHostDown, "", api.SeverityCritical))
		w.bus.publish(alertEvent("created", "a2", api.AlertCycleFailing, "g-shop", api.SeverityWarning))
		w.job("j1", "failback", api.JobSucceeded)
		w.job("j1", "failback", api.JobSucceeded) // shown again
		w.job("j2", "cycle", api.JobFailed)
		w.job("j5", "mirror", api.JobFailed)
		w.job("j3", "verify", api.JobSucceeded)
		w.job("j4", "failover", api.JobRunning)
		w.pass(time.Minute)
		require.Equal(t, []string{"a1 firing", "a2 firing", "job-j1 ended"}, w.receiver("all").told())
		require.Equal(t, []string{"a2 firing", "job-j1 ended"}, w.receiver("shop").told())
		require.Equal(t, []string{"a1 firing"}, w.receiver("worst").told())
		require.Equal(t, []string{"a1 firing", "job-j1 ended"}, w.receiver("kinds").told())
		require.Empty(t, w.receiver("off").told())
		require.Equal(t, "info: shop: failback succeeded", w.receiver("all").messages()[2].subject())
	})
}

// The end of an alert goes to whoever was told of its beginning, and to nobody else.
func TestEndFollowsBeginning(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		first, second := w.channel("first"), w.channel("second")
		r := w.rule("r", nil, first)
		w.begin("a1")
		w.pass(time.Minute)
		_, err := w.UpdateRule(t.Context(), r.ID, r.Revision, api.RuleSpec{Name: "r", Enabled: true, Channels: []string{second.ID}})
		require.NoError(t, err)
		w.begin("a2")
		w.end("a1")
		w.pass(time.Minute)
		w.end("a2")
		w.end("a3") // nobody knows it
		w.pass(time.Minute)
		require.Equal(t, []string{"a1 firing", "a1 resolved"}, w.receiver("first").told())
		require.Equal(t, []string{"a2 firing", "a2 resolved"}, w.receiver("second").told())
		require.Zero(t, w.store.count(bucketAlerts))
		require.Zero(t, w.store.count(bucketQueue))
	})
}

// The engine gives the alerts of one kind of a group the same id each time.
func TestAlertsOfOneKindAreToldApart(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		for i := range 2 {
			for _, action := range []string{"created", "deleted"} {
				e := alertEvent(action, "g.stray", api.AlertStray, "g-shop", api.SeverityCritical)
				e.Alert.Since = time.UnixMilli(int64(i + 1))
				w.bus.publish(e)
			}
		}
		w.pass(time.Minute)
		require.Equal(t, []string{"g.stray.1 firing", "g.stray.1 resolved", "g.stray.2 firing", "g.stray.2 resolved"}, w.receiver("c").told())
	})
}

// A host with a thousand machines goes down.
func TestStormIsOneMessage(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		for i := range 1000 {
			w.begin(fmt.Sprint("a", i))
		}
		w.pass(gatherFor + time.Second)
		got := w.receiver("c").messages()
		require.Len(t, got, 1)
		require.Equal(t, 1000, got[0].Total)
		require.Len(t, got[0].Notices, maxNotices)
		require.Equal(t, "critical: 1000 notifications: 100 rpo-missed, and 900 more", got[0].subject())
		require.Contains(t, got[0].text(), "... and 900 more")
		require.Zero(t, w.store.count(bucketQueue))
		require.Equal(t, 1000, w.deliveries(api.Delivered)[0].Alerts)
	})
}

// However it goes on, nobody gets more than five messages a minute, and nothing is left out.
func TestNeverMoreThanFiveInAMinute(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		for i := range 600 {
			w.begin(fmt.Sprint("a", i))
			w.pass(700 * time.Millisecond)
		}
		w.pass(2 * time.Minute)
		r, total := w.receiver("c"), 0
		for _, m := range r.messages() {
			total += m.Total
		}
		require.Equal(t, 600, total)
		for i := maxInTime; i < len(r.at); i++ {
			require.GreaterOrEqual(t, r.at[i].Sub(r.at[i-maxInTime]), window)
		}
	})
}

// A few are told one by one.
func TestFewAreToldAlone(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		for i := range maxInTime {
			w.begin(fmt.Sprint("a", i))
		}
		w.pass(gatherFor + time.Second)
		require.Len(t, w.receiver("c").messages(), maxInTime)
	})
}

func TestRetryBacksOffAndKeepsTheMessage(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		var at []time.Time
		w.receiver("c").fail = func(n int) error {
			at = append(at, time.Now())
			if n < 12 {
				return errors.New("busy")
			}
			return nil
		}
		began := time.Now()
		w.begin("a1")
		w.pass(gatherFor + time.Second)
		d := w.deliveries(api.DeliveryRetrying)
		require.Len(t, d, 1)
		require.Equal(t, "busy", d[0].Error)
		require.Equal(t, 1, d[0].Tries)
		require.WithinDuration(t, time.Now().Add(firstPause), *d[0].NextTry, 2*time.Second)
		channels, err := w.ListChannels(t.Context())
		require.NoError(t, err)
		require.Equal(t, "busy", channels[0].Problem)
		require.Equal(t, 1, channels[0].Waiting)
		w.pass(3 * time.Hour)
		var pauses []time.Duration
		for i := 1; i < len(at); i++ {
			pauses = append(pauses, at[i].Sub(at[i-1]))
		}
		require.Equal(t, []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 320 * time.Second,
			640 * time.Second, maxPause, maxPause, maxPause, maxPause}, pauses)
		require.Equal(t, began.Add(gatherFor), at[0])
		d = w.deliveries("")
		require.Len(t, d, 1, "one message, one record")
		require.Equal(t, api.Delivered, d[0].State)
		require.Equal(t, 12, d[0].Tries)
		require.Equal(t, d[0].ID, w.receiver("c").messages()[0].ID)
	})
}

func TestReceiverSaysWhenToComeBack(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		r := w.receiver("c")
		r.fail = func(n int) error {
			if n == 1 {
				return &refusal{err: errors.New("later"), after: 5 * time.Minute}
			}
			return nil
		}
		w.begin("a1")
		w.pass(gatherFor + 5*time.Minute - time.Second)
		require.Equal(t, 1, r.attempts())
		w.pass(2 * time.Second)
		require.Equal(t, 2, r.attempts())
	})
}

func TestGivesUp(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		r := w.receiver("c")
		r.fail = func(int) error { return &refusal{err: errors.New("wrong"), permanent: true, hint: "do it right"} }
		w.begin("a1")
		w.pass(time.Minute)
		d := w.deliveries(api.DeliveryFailed)
		require.Len(t, d, 1)
		require.Equal(t, []any{"wrong", "do it right", 1}, []any{d[0].Error, d[0].Hint, d[0].Tries})

		r.fail = func(int) error { return errors.New("busy") }
		w.begin("a2")
		w.pass(giveUp - time.Minute)
		require.Len(t, w.deliveries(api.DeliveryRetrying), 1)
		w.pass(20 * time.Minute)
		require.Len(t, w.deliveries(api.DeliveryFailed), 2)
		require.Zero(t, w.store.count(bucketQueue))
		tries := r.attempts()
		w.pass(24 * time.Hour)
		require.Equal(t, tries, r.attempts())
	})
}

func TestHangingReceiverDelaysNoOther(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("hangs"), w.channel("works"))
		w.receiver("hangs").hang = true
		w.begin("a1")
		w.pass(gatherFor + time.Second)
		w.begin("a2")
		w.pass(gatherFor + time.Second)
		require.Equal(t, []string{"a1 firing", "a2 firing"}, w.receiver("works").told())
		w.pass(sendTimeout)
		require.Contains(t, w.deliveries(api.DeliveryRetrying)[0].Error, "no answer within 30s")
	})
}

// The appliance dies before each of its writes in turn. Nothing is lost; what was delivered before its death was known to
// be delivered is told again under the same id, and nothing else is told twice.
func TestDeathAtEveryWrite(t *testing.T) {
	for writes := 0; ; writes++ {
		died := false
		in(t, func(t *testing.T, w *world) {
			w.rule("r", nil, w.channel("c"))
			died = w.liveUntil(writes)
			for range 3 {
				w.pass(time.Minute)
			}
			w.bus.publish(alertEvent("created", "last", api.AlertStray, "g-shop", api.SeverityCritical))
			w.pass(time.Minute)
			ids, told := map[string]string{}, map[string]int{}
			for _, m := range w.receiver("c").messages() {
				for _, n := range m.Notices {
					what := n.ID + " " + n.State
					told[what]++
					if before, twice := ids[what]; twice {
						require.Equal(t, before, m.ID, "%s is told twice, in two messages, after a death at write %d", what, writes)
					}
					ids[what] = m.ID
				}
			}
			twice := 0
			for _, what := range []string{"a1 firing", "a1 resolved", "a2 firing", "job-j1 ended", "last firing"} {
				require.NotZero(t, told[what], "%s is lost after a death at write %d", what, writes)
				twice += told[what] - 1
			}
			require.Len(t, told, 5)
			require.LessOrEqual(t, twice, 1, "after a death at write %d", writes)
			require.Zero(t, w.store.count(bucketQueue))
			require.Equal(t, 2, w.store.count(bucketAlerts))
		})
		if !died {
			require.Greater(t, writes, 15, "nothing was written")
			return
		}
	}
}

// liveUntil lets things happen, and the power fail before the write with that number.
func (w *world) liveUntil(writes int) (died bool) {
	off := make(chan struct{})
	n := 0
	w.store.refuse(func(string, string) error {
		if n++; n <= writes {
			return nil
		}
		if n == writes+1 {
			close(off)
			w.stop() // the process ends there and then
		}
		return errors.New("the power is off")
	})
	life := []func(){
		func() { w.begin("a1") }, func() { w.pass(time.Minute) }, func() { w.end("a1") }, func() { w.begin("a2") },
		func() { w.pass(time.Minute) }, func() { w.job("j1", "failover", api.JobFailed) }, func() { w.pass(time.Minute) },
	}
	for _, step := range life {
		step()
		synctest.Wait()
		select {
		case <-off:
			if !died {
				w.die()
				w.start()
				died = true
			}
		default:
		}
	}
	w.store.refuse(nil)
	return died
}

// A restart finds what waits, also a digest of which the parts were not yet forgotten.
func TestRestartFindsWhatWaits(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		w.receiver("c").fail = func(int) error { return errors.New("down") }
		for i := range 20 {
			w.begin(fmt.Sprint("a", i))
		}
		synctest.Wait()
		w.store.refuse(func(op, path string) error {
			if op == "delete" && strings.HasPrefix(path, bucketQueue) {
				return errors.New("not now")
			}
			return nil
		})
		w.pass(gatherFor + time.Second)
		require.Equal(t, 20, w.store.count(bucketQueue))
		w.die()
		w.receiver("c").fail = nil
		w.start()
		w.pass(time.Minute)
		got := w.receiver("c").messages()
		require.Len(t, got, 1)
		require.Equal(t, 20, got[0].Total)
		require.Zero(t, w.store.count(bucketQueue))
	})
}

// What happened while nobody listened is told at the next start.
func TestResumesWhereItWas(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		w.begin("a1")
		w.pass(time.Minute)
		require.NoError(t, w.Close())
		w.end("a1")
		w.begin("a2")
		w.start()
		w.pass(time.Minute)
		require.Equal(t, []string{"a1 firing", "a1 resolved", "a2 firing"}, w.receiver("c").told())
	})
}

// The events of the last moments before a death are in no log. The next start tells what they would have.
func TestStartComparesWithWhatIsWrong(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.channel("c")
		w.rule("r", nil, c)
		w.begin("a1")
		w.begin("a2")
		w.pass(time.Minute)
		w.die()
		w.engine.active = []api.ActiveAlert{*alertEvent("", "a2", api.AlertRPOMissed, "g-shop", api.SeverityCritical).Alert}
		for i := range 3 {
			w.engine.active = append(w.engine.active, *alertEvent("", fmt.Sprint("new", i), api.AlertStray, "g-shop", api.SeverityCritical).Alert)
		}
		w.start()
		w.bus.publish(alertEvent("created", "new1", api.AlertStray, "g-shop", api.SeverityCritical)) // it was in the log all the same
		w.pass(time.Minute)
		require.Equal(t, []string{"a1 firing", "a2 firing", "new0 firing", "new1 firing", "new2 firing", "a1 resolved"}, w.receiver("c").told())
		w.die()
		w.start()
		w.pass(time.Minute)
		require.Len(t, w.receiver("c").told(), 6, "once is enough")
	})
}

// Whoever puts an older log in place has alerts told all the same.
func TestLogThatBeginsAnew(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		w.begin("a1")
		w.end("a1")
		w.pass(time.Minute)
		require.NoError(t, w.Close())
		w.bus.events = nil
		w.start()
		w.begin("a2")
		w.pass(time.Minute)
		require.Equal(t, []string{"a1 firing", "a1 resolved", "a2 firing"}, w.receiver("c").told())
	})
}

// A full disk is when people must hear of it.
func TestTellsAlthoughNothingCanBeKept(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		w.store.refuse(func(string, string) error { return errors.New("no space left") })
		w.begin("a1")
		w.pass(time.Minute)
		require.Equal(t, []string{"a1 firing"}, w.receiver("c").told())
		w.store.refuse(nil)
	})
}

func TestQueueIsBounded(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.rule("r", nil, w.channel("c"))
		r := w.receiver("c")
		r.fail = func(int) error { return errors.New("down") }
		w.begin("first")
		w.pass(gatherFor + time.Second)
		for i := range maxWaiting + 10 {
			w.begin(fmt.Sprint("a", i))
		}
		synctest.Wait()
		require.Equal(t, maxWaiting, w.store.count(bucketQueue))
		require.Len(t, w.deliveries(api.DeliveryFailed), 11)
		require.LessOrEqual(t, w.store.count(bucketDeliveries), keepDeliveries)
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		w.pass(time.Hour)
		require.Equal(t, "first firing", r.told()[0])
		require.Equal(t, maxWaiting-1, r.messages()[1].Total)
	})
}

func TestDeliveriesAreBounded(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.channel("c")
		for range keepDeliveries + 5 {
			_, err := w.TestChannel(t.Context(), c.ID)
			require.NoError(t, err)
		}
		require.Len(t, w.deliveries(""), keepDeliveries)
		require.Equal(t, keepDeliveries, w.store.count(bucketDeliveries))
		w.die()
		w.start()
		list := w.deliveries("")
		require.Len(t, list, keepDeliveries)
		require.True(t, slices.IsSortedFunc(list, func(a, b api.Delivery) int { return b.Time.Compare(a.Time) }), "the newest first")
	})
}

func TestChangedChannelIsTriedAtOnce(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.channel("wrong")
		w.rule("r", nil, c)
		w.receiver("wrong").fail = func(int) error { return errors.New("nobody there") }
		w.begin("a1")
		w.pass(time.Hour)
		spec := c.ChannelSpec
		spec.Syslog = &api.SyslogChannel{Host: "right", Port: 514, Transport: "udp"}
		_, err := w.UpdateChannel(t.Context(), c.ID, c.Revision, spec)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []string{"a1 firing"}, w.receiver("right").told())
	})
}

func TestDeletedChannelIsForgotten(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.channel("c")
		r := w.rule("r", nil, c)
		w.receiver("c").hang = true
		w.begin("a1")
		w.pass(gatherFor + time.Second)
		require.Equal(t, api.CodeInUse, api.CodeOf(w.DeleteChannel(t.Context(), c.ID)))
		require.NoError(t, w.DeleteRule(t.Context(), r.ID))
		require.NoError(t, w.DeleteChannel(t.Context(), c.ID))
		w.end("a1")
		w.pass(time.Hour)
		require.Empty(t, w.receiver("c").told())
		require.Zero(t, w.store.count(bucketQueue)+w.store.count(bucketChannels)+w.store.count(bucketRules))
	})
}
