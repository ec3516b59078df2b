package test

import (
	"fmt"
	"net"
	"testing"
)

// A program that dies early says why in its last line: the log has it where it says that the service rests, and where
// clients are turned away, wherever the program's own output goes.
func TestLastWords(t *testing.T) {
	for _, name := range []string{"log", "file", "null"} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			text := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"/bin/sh\", \"-c\", "+
				"\"echo begins >&2; echo no such file: /etc/x.conf >&2; echo >&2; echo told >&1; exit 3\"]\nhold = \"500ms\"\n", dir)
			text += fmt.Sprintf("stderr = %q\n", map[string]string{"log": "log", "file": dir + "/errors", "null": "null"}[name])
			a := activate(t, "--config", configureIn(t, dir, "early", text))
			c, err := net.Dial("unix", dir+"/s")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			says := []string{"exit=\"exit status 3\"", "stderr=\"no such file: /etc/x.conf\""}
			if name == "null" {
				says = says[:1]
			}
			a.wait(append(says, "level=WARN", "state=resting")...)
			a.wait(append(says, "level=WARN", "clients turned away")...)
			if n := a.log.count("stderr="); name == "null" && n > 0 {
				t.Errorf("%d lines have what went to /dev/null", n)
			}
		})
	}
}
