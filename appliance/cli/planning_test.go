package cli

import "maps"

func init() {
	maps.Copy(commands, map[string][]string{
		"bandwidth-show":        {"bandwidth", "show"},
		"bandwidth-show-json":   {"bandwidth", "show", "--json"},
		"bandwidth-set":         {"bandwidth", "set", "--mbit", "200", "--rule", "sat-mon,wed@08:00-18:00=50", "--rule", "22:00-04:00=0"},
		"bandwidth-set-none":    {"bandwidth", "set", "--no-rules", "--time-zone", ""},
		"bandwidth-set-wrong":   {"bandwidth", "set", "--rule", "weekend@08:00-18:00=5"},
		"bandwidth-set-no-rate": {"bandwidth", "set", "--rule", "08:00-18:00"},
		"bandwidth-set-invalid": {"bandwidth", "set", "--rule", "8-18=5"},
		"groups-policy-windows": {"groups", "policy", "web", "--window", "mon-fri@18:00-08:00", "--window", "sat,sun@00:00-00:00", "--time-zone", "Europe/Berlin"},
		"groups-policy-always":  {"groups", "policy", "web", "--window", "always"},
	})
}
