package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stubborn becomes kind with every signal blocked, and ignored where that can be.
func stubborn(kind string) {
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	for sig := uintptr(1); sig <= 64; sig++ {
		_ = sigactionOf(sig, &sigaction{handler: 1}, nil) // not of SIGKILL and SIGSTOP
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil)
	exe, _ := os.Executable()
	fmt.Println(unix.Exec(exe, []string{exe, "helper", kind}, os.Environ()))
	os.Exit(1)
}

// showSignals starts a program that shows what signals it was born with: not one
// in Go, whose runtime sets its own.
func showSignals(init bool) {
	s := starterFor()
	process := helperSpec()
	process.Argv = []string{"grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"}
	process.Sandbox.Init = init
	p, err := s.Prepare(context.Background(), process, Inputs{Stdio: Stdio{Out: os.Stdout, Err: os.Stderr}})
	if err == nil {
		err = p.Go(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = p.Wait()
}

// Whatever started us, a program can be asked to stop.
func TestSignalsAreDefault(t *testing.T) {
	none := strings.Repeat("0", 16)
	want := fmt.Sprintf("SigBlk:\t%s\nSigIgn:\t%s\n", none, none)
	for _, kind := range []string{"signals", "signals init"} {
		cmd := exec.Command(os.Args[0], "helper", "stubborn", kind)
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("%s: %q, %v", kind, out, err)
		}
	}
}
