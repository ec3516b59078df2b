// Command kernels boots kernels of Debian in qemu and has the README's lines, the
// ways of the hand-over and the escape suite run in each, as root and as an
// ordinary user:
//
//	go run ./test/kernels            # the important boots
//	go run ./test/kernels -all       # all of them
//	go run ./test/kernels -ci        # one, with the socket rows of the escape suite
//	go run ./test/kernels -only REGEXP
//
// It prints a table. What is downloaded and what the guests print stays in -cache.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
)

var (
	all    = flag.Bool("all", false, "every boot")
	ci     = flag.Bool("ci", false, "one boot with the socket rows of the escape suite")
	only   = flag.String("only", "", "the boots whose name matches `REGEXP`")
	probes = flag.String("probes", "", "of the escape suite: \"sockets\", what is about what was inherited, or \"all\"; without it as docs/kernels.md has it")
	steps  = flag.String("steps", "", "only these steps, separated by commas")
	write  = flag.Bool("write", false, "write the results to test/kernels/results.tsv and docs/kernels.md")
	cache  = flag.String("cache", "bin/kernels", "`FOLDER` for packages, file systems and consoles")
)

// The guest is told of our death by the one of the thread that started it, prctl(2).
func init() { runtime.LockOSThread() }

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "kernels: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := filepath.Abs(*cache)
	if err != nil {
		return err
	}
	chosen, err := chooseBoots()
	if err != nil {
		return err
	}
	m := &machine{cache: dir, built: make(map[string]string)}
	outcomes := make([]outcome, 0, len(chosen))
	failed := 0
	for i, b := range chosen {
		fmt.Printf("\n[%d of %d] %s\n", i+1, len(chosen), b.name())
		o := m.boot(ctx, b)
		if ctx.Err() != nil {
			return ctx.Err() // what was interrupted says nothing
		}
		for _, why := range o.wrong {
			fmt.Printf("  WRONG: %s\n", why)
		}
		if len(o.wrong) > 0 {
			failed++
		}
		outcomes = append(outcomes, o)
		if *write { // each time: a run of all takes long, and may be ended
			if err := tabulate(outcomes).write(); err != nil {
				return err
			}
		}
	}
	fmt.Printf("\n%s", tabulate(outcomes).text())
	if failed > 0 {
		return fmt.Errorf("%d of %d boots are not as they should be", failed, len(chosen))
	}
	return nil
}

// chooseBoots returns the boots that the flags ask for.
func chooseBoots() (chosen []boot, err error) {
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return nil, err
	}
	for i, b := range boots {
		switch {
		case *only != "" && !pattern.MatchString(b.name()):
		case *ci && i > 0:
		case *only == "" && !*all && !b.important:
		default:
			if *ci {
				b.probes, b.packages = "sockets", nil
			}
			if *probes != "" {
				b.probes = *probes
			}
			chosen = append(chosen, b)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no boot matches %q", *only)
	}
	return chosen, nil
}
