package test

import (
	"fmt"
	"testing"
)

// What hangs is ended and rests, however the sockets reach it, behind the seal that lets it connect to
// nothing but the socket that it reports to. Its next run serves the next client.
func TestWatchdog(t *testing.T) {
	for name, more := range map[string]string{
		"fds":      `exec = ["ECHO", "--drain=0s"]`,
		"reporter": "exec = [\"ECHO\", \"--sdnotify\", \"--drain=0s\"]\nnotify = true",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			a := activate(t, "--config", configureIn(t, dir, "mute",
				fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nwatchdog = \"3s\"\n%s\n", dir, more)))
			for n := range 2 {
				answered(t, "mute", "unix:"+dir+"/s")
				a.waitN(n+1, "service hangs")
				a.waitN(n+1, "state=resting")
			}
		})
	}
}
