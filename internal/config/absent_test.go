package config

import (
	"strings"
	"testing"
)

// Keys of other systems get the sentence that says what there is instead.
func TestAbsentKeys(t *testing.T) {
	for written, says := range map[string]string{
		`type = "notify"`:                       "notify = true",
		`Type = "forking"`:                      "notify = true",
		`restart = "always"`:                    "restart_delay",
		`StartLimitBurst = 3`:                   "restart_max_delay",
		`After = "network.target"`:              "not ordered",
		`depends_on = ["db"]`:                   "not ordered",
		`ExecStartPre = "mkdir /x"`:             "exec it",
		`ExecReload = "kill -HUP"`:              "nothing to reload",
		`EnvironmentFile = "/etc/default/x"`:    "write the variables",
		`env = ["A=1"]`:                         "environment",
		`working_dir = "/"`:                     "working_directory",
		`ports = ["80:80"]`:                     "listen in [[socket]]",
		`volumes = ["/a:/b"]`:                   "read_only and writable",
		`network_mode = "none"`:                 "network in [sandbox]",
		`DynamicUser = true`:                    "user of its own",
		`PrivateTmp = true`:                     "without a word",
		`ProtectSystem = "strict"`:              "without a word",
		`RestrictAddressFamilies = ["AF_INET"]`: "without a word",
		`MemoryHigh = "1G"`:                     "memory_max",
		`CPUQuota = "20%"`:                      "cpu_weight",
		`IOReadBandwidthMax = "1M"`:             "cpu_weight",
		`SyslogIdentifier = "x"`:                "the service's name in each line",
		`PIDFile = "/run/x.pid"`:                "in the foreground",
		`health_cmd = "true"`:                   "watchdog",
		`stdout = "journal"`:                    `write "log"`,
		`stdout = "ns:/x"`:                      `write "log"`,
		`stderr = "fd:name"`:                    `write "log"`,
		// What is only misspelt, or has another name here, is still that.
		`noitfy = true`:      `did you mean "notify"?`,
		`RestartSec = 3`:     `here it is written "restart_delay"`,
		`PrivateNetwork = 1`: `"network" stands in [sandbox]`,
	} {
		_, err := parseText("x.toml", []byte("[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nexec = [\"/bin/x\"]\n"+written+"\n"), somewhere)
		all, _ := err.(Errors)
		if len(all) != 1 || !strings.Contains(all[0].Cure, says) {
			t.Errorf("%s: want %q, got\n%v", written, says, err)
		}
	}
	for header, says := range map[string]string{"[Unit]": "comment", "[Install]": "not ordered", "[Servcie]": `"service"`} {
		_, err := parseText("x.toml", []byte("[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nexec = [\"/bin/x\"]\n"+header+"\n"), somewhere)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: want %q, got\n%v", header, says, err)
		}
	}
}

// No key of ours is said to be absent.
func TestAbsentAreNoKeys(t *testing.T) {
	for _, s := range sections() {
		for _, key := range s.keys {
			if instead := explainAbsent(key); instead != "" {
				t.Errorf("%s: %s: %q", s.name, key, instead)
			}
		}
	}
}
