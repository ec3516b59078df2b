package main

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A second signal ends at once if it comes a second after the first, or later. What
// comes before belongs to the first.
func TestSecondSignal(t *testing.T) {
	for _, test := range []struct {
		name   string
		at     []time.Duration // of the signals after the first
		atOnce time.Duration   // when it ends at once; 0: it does not
	}{
		{"one", nil, 0},
		{"timeout(1): the process and its group", []time.Duration{0}, 0},
		{"0.1 s later", []time.Duration{100 * time.Millisecond}, 0},
		{"just before a second is over", []time.Duration{time.Second - 1}, 0},
		{"when a second is over", []time.Duration{time.Second + 1}, time.Second + 1},
		{"1.1 s later", []time.Duration{1100 * time.Millisecond}, 1100 * time.Millisecond},
		{"twice, then a minute later", []time.Duration{0, time.Minute}, time.Minute},
		{"a storm", []time.Duration{0, 1, 2, 3, 4, 5, 500 * time.Millisecond, time.Second - 1}, 0},
		{"a storm that goes on", []time.Duration{0, 1, 2, 3, time.Second - 1, time.Second + 2}, time.Second + 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan os.Signal, 2)
				begin := time.Now()
				var stopped, atOnce time.Duration = -1, 0
				signalOnce := func(s os.Signal) { // as signal.Notify does
					select {
					case ends <- s:
					default:
					}
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					endOn(ends, func() { stopped = time.Since(begin) }, func() { atOnce = time.Since(begin) })
				}()
				signalOnce(syscall.SIGINT)
				for _, at := range test.at {
					time.Sleep(at - time.Since(begin))
					signalOnce(syscall.SIGTERM)
				}
				time.Sleep(time.Hour)
				synctest.Wait() // what endOn has written is ours to read
				if stopped != 0 || atOnce != test.atOnce {
					t.Errorf("ended in order after %v and at once after %v, want 0 and %v (0: never)", stopped, atOnce, test.atOnce)
				}
				if atOnce == 0 { // for the bubble, all of whose goroutines must end
					ends <- syscall.SIGTERM
				}
				<-done
			})
		})
	}
}

// A configuration that is named without --config is told from a word that is no command.
func TestConfigurationWithoutItsFlag(t *testing.T) {
	for word, want := range map[string]string{
		"../../configs/echo.toml": `"../../configs/echo.toml" is no command: did you mean --config ../../configs/echo.toml?`,
		"none.toml":               `"none.toml" is no command: did you mean --config none.toml?`,
		"testify":                 `unknown command "testify" for "activator"`,
	} {
		root := rootCommand()
		root.SetArgs([]string{word})
		if err := root.Execute(); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", word, err, want)
		}
		if code := run([]string{word}); code != exitUsage {
			t.Errorf("%s: exit code %d", word, code)
		}
	}
}

// A configuration without a name is an error of the command line, in words.
func TestConfigurationWithoutAName(t *testing.T) {
	const empty = "the name of the configuration is empty: give a file or a folder, "
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--config", ""}, empty + "--config configs/echo.toml"},
		{[]string{"--config", "a.toml", "-c", ""}, empty + "--config configs/echo.toml"},
		{[]string{"check", ""}, empty + "check --config configs/echo.toml"},
		{[]string{"check", "--offline", "--config="}, empty + "check --config configs/echo.toml"},
		{[]string{"try", ""}, empty + "try configs/echo.toml"},
		{[]string{"try"}, "give one file: try configs/echo.toml"},
		{nil, "no configuration: give a file or a folder, --config configs/echo.toml"},
	} {
		root := rootCommand()
		root.SetArgs(append([]string{}, tt.args...))
		if err := root.Execute(); err == nil || err.Error() != tt.want {
			t.Errorf("%q: %v, want %s", tt.args, err, tt.want)
		}
		if code := run(append([]string{}, tt.args...)); code != exitUsage {
			t.Errorf("%q: exit code %d", tt.args, code)
		}
	}
}
