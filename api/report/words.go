package report

import "strings"

// words are those of a language.
type words struct {
	time  string // layout
	text  map[string]string
	terms map[string]map[string]string // by kind of term; what is not there stays as it is
}

// term gives a word of the product in the language.
func (w words) term(kind, word string) string {
	if kind == "step" {
		if undone, undo := strings.CutPrefix(word, "undo "); undo {
			return w.text["undo"] + " " + w.term("undo", undone)
		}
	}
	if said, known := w.terms[kind][word]; known {
		return said
	}
	return word
}

var languages = map[string]words{"en": english, "de": german}

var english = words{
	time: "2006-01-02 15:04:05",
	text: map[string]string{
		"facts": "Facts", "group": "Protection group", "from": "From host", "to": "To host", "manner": "Manner", "planned": "planned: source shut down, last copy made",
		"forced": "unplanned; source turned off hard where it still ran", "unplanned": "unplanned", "started": "Ordered", "ended": "Ended", "rto": "Until all checks were made (RTO)",
		"point": "Recovery point", "lost": "Lost (age of the point)", "age": "Age of the point when ordered", "machines": "Machines", "host": "Host", "stage": "Stage",
		"machineStarted": "Started", "check": "Check", "ok": "passed", "notOk": "failed", "screen": "Screen", "noScreen": "no picture", "actions": "Actions of the runbook",
		"kindOf": "Kind", "from_": "Time", "outcome": "Outcome", "by": "Confirmed by", "timeline": "Timeline", "step": "Step", "begin": "Began", "duration": "Took",
		"date": "Date", "signature": "Signature", "footer": "Understudy, report", "printed": "printed", "utc": "All times are UTC.", "undo": "undo:",
	},
	terms: map[string]map[string]string{
		"kind": {"test": "Test failover", "failover": "Failover", "commit": "Commit of a failover", "rollback": "Rollback of a failover",
			"reprotect": "Reprotect", "failback": "Failback", "fence": "Fencing"},
		"outcome": {"running": "up, not passed before it is cleaned up", "passed": "passed", "warning": "done, with problems", "failed": "failed", "cancelled": "cancelled"},
		"action":  {"script": "script", "manual": "manual step"},
		"when":    {"before": "before the start", "after": "after the start"},
	},
}

var german = words{
	time: "02.01.2006 15:04:05",
	text: map[string]string{
		"facts": "Eckdaten", "group": "Schutzgruppe", "from": "Von Host", "to": "Auf Host", "manner": "Art", "planned": "geplant: Quelle heruntergefahren, letzte Kopie erstellt",
		"forced": "ungeplant; Quelle hart ausgeschaltet, wo sie noch lief", "unplanned": "ungeplant", "started": "Angeordnet", "ended": "Beendet", "rto": "Bis alle Prüfungen erfolgt waren (RTO)",
		"point": "Wiederherstellungspunkt", "lost": "Verlust (Alter des Punktes)", "age": "Alter des Punktes bei der Anordnung", "machines": "Maschinen", "host": "Host", "stage": "Startgruppe",
		"machineStarted": "Gestartet", "check": "Prüfung", "ok": "bestanden", "notOk": "nicht bestanden", "screen": "Bildschirm", "noScreen": "kein Bild", "actions": "Aktionen des Ablaufplans",
		"kindOf": "Art", "from_": "Zeit", "outcome": "Ergebnis", "by": "Bestätigt von", "timeline": "Zeitlicher Ablauf", "step": "Schritt", "begin": "Beginn", "duration": "Dauer",
		"date": "Datum", "signature": "Unterschrift", "footer": "Understudy, Bericht", "printed": "gedruckt", "utc": "Alle Zeiten in UTC.", "undo": "Rückgängig:",
	},
	terms: map[string]map[string]string{
		"kind": {"test": "Testfailover", "failover": "Failover", "commit": "Bestätigung eines Failovers", "rollback": "Rücknahme eines Failovers",
			"reprotect": "Schutz in Gegenrichtung", "failback": "Failback", "fence": "Abschalten doppelt laufender Maschinen"},
		"outcome": {"running": "läuft, erst nach dem Aufräumen bestanden", "passed": "bestanden", "warning": "ausgeführt, mit Problemen", "failed": "fehlgeschlagen", "cancelled": "abgebrochen"},
		"action":  {"script": "Skript", "manual": "Handgriff"},
		"when":    {"before": "vor dem Start", "after": "nach dem Start"},
		"step": {"begin": "Beginn", "catch-up": "Aufholen im Betrieb", "source-off": "Quelle ausschalten", "last-copy": "Letzte Kopie", "start": "Start der Maschinen",
			"checks": "Prüfungen und Bilder", "done": "Abschluss", "report": "Bericht", "network": "Testnetz", "end-machines": "Testmaschinen beenden", "commit": "Bestätigung",
			"autostart": "Start mit dem Host", "end-replicas": "Replikate beenden", "source-on": "Quelle einschalten", "adopt": "Übernahme als Replikat", "swap": "Rollentausch",
			"copy": "Kopie", "settle": "Rückgabe der eigenen Platten", "turn": "Die Maschinen laufen wieder zu Hause", "protect": "Schutz wiederherstellen", "retire": "Alte Seite beenden",
			"stop": "Ausschalten", "give-up": "Verwerfen"},
		"undo": {"revert": "Zustand", "source-on": "Quelle einschalten", "autostart": "Start mit dem Host", "end-live": "Replikate beenden", "adopt": "Übernahme", "home-off": "Maschinen ausschalten",
			"report": "Bericht", "network": "Testnetz", "start": "Testmaschinen beenden"},
	},
}
