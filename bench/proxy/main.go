// Command proxy compares what carries streams: ours, HAProxy (one thread, splice)
// and systemd-socket-proxyd, each between the same clients (wrk, iperf3) and the same
// programs (nginx, iperf3 -s), in alternated rounds of one run.
//
//	go run ./proxy -rounds 5 -seconds 2
//
// It prints medians, what they are of ours, and the processor time that the relay
// itself took for a unit: the figure that other work on the machine changes least.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// test is one measurement; it returns units per second and how many there were.
type test struct {
	name, unit string
	run        func(r *relay, seconds int) (rate, total float64, err error)
}

var tests = []test{
	{"keep-alive", "requests/s", func(r *relay, s int) (float64, float64, error) { return wrk(r.web, s, "/") }},
	{"close", "connections/s", func(r *relay, s int) (float64, float64, error) {
		return wrk(r.web, s, "/", "-H", "Connection: close")
	}},
	{"1 MB bodies", "requests/s", func(r *relay, s int) (float64, float64, error) { return wrk(r.web, s, "/1m") }},
	{"bulk up", "Gbit/s", func(r *relay, s int) (float64, float64, error) { return iperf(r.bulk, s) }},
	{"bulk down", "Gbit/s", func(r *relay, s int) (float64, float64, error) { return iperf(r.bulk, s, "-R") }},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		if err := runRelay(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 5, "rounds, of which the median is taken")
	seconds := flag.Int("seconds", 2, "of one measurement")
	only := flag.String("only", "", "tests whose name matches")
	idle := flag.Int("idle", 4000, "idle connections for the memory; 0: leave that out")
	skip := flag.String("skip", "^$", "relays whose name matches are left out")
	flag.Parse() // what is left: other builds of this program, to be compared with it
	if err := compare(*rounds, *seconds, *idle, regexp.MustCompile(*only), regexp.MustCompile(*skip), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func compare(rounds, seconds, idle int, only, skip *regexp.Regexp, also []string) error {
	dir, err := os.MkdirTemp("", "bench-proxy")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for nginx's user
		return err
	}
	defer stopAll()
	relays, err := startRelays(dir, also)
	if err != nil {
		return err
	}
	relays = slices.DeleteFunc(relays, func(r *relay) bool { return skip.MatchString(r.name) })
	if idle > 0 {
		if err := idleMemory(relays, idle); err != nil {
			return err
		}
	}
	for _, t := range tests {
		if !only.MatchString(t.name) {
			continue
		}
		if err := t.compare(relays, rounds, seconds); err != nil {
			return err
		}
	}
	return nil
}

// compare prints a table of t.
func (t test) compare(relays []*relay, rounds, seconds int) error {
	ours := slices.IndexFunc(relays, func(r *relay) bool { return r.name == "activator" })
	rates, costs := make([][]float64, len(relays)), make([][]float64, len(relays))
	for round := range rounds {
		for i := range relays {
			at := (i + round) % len(relays) // nobody is always the first
			r := relays[at]
			before := r.used()
			rate, total, err := t.run(r, seconds)
			if err != nil {
				fmt.Printf("%s, %s: %v; started again\n", t.name, r.name, err)
				if err = r.restart(); err == nil {
					before = r.used()
					rate, total, err = t.run(r, seconds)
				}
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", t.name, r.name, err)
			}
			rates[at] = append(rates[at], rate)
			costs[at] = append(costs[at], (r.used()-before)/total*1e6)
		}
	}
	fmt.Printf("%s, %s, median (least to most) of %d; ours/its, median of the rounds' ratios; relay's own µs per unit\n", t.name, t.unit, rounds)
	for i, r := range relays {
		ratios := make([]float64, rounds)
		for k := range ratios {
			ratios[k] = rates[ours][k] / rates[i][k]
		}
		fmt.Printf("  %-14s %10.1f (%.1f to %.1f)  %5.2f  %8.2f\n", r.name, median(rates[i]),
			slices.Min(rates[i]), slices.Max(rates[i]), median(ratios), median(costs[i]))
	}
	return nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func wrk(port, seconds int, path string, more ...string) (rate, total float64, err error) {
	args := append([]string{"-t1", "-c50", fmt.Sprintf("-d%ds", seconds)}, more...)
	out, err := exec.Command("wrk", append(args, fmt.Sprintf("http://127.0.0.1:%d%s", port, path))...).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "Socket errors") || strings.Contains(line, "Non-2xx") {
			fmt.Fprintln(os.Stderr, port, strings.TrimSpace(line))
		}
		if value, ok := strings.CutPrefix(line, "Requests/sec:"); ok {
			rate, err = strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
		if before, _, ok := strings.Cut(line, " requests in "); ok {
			total, _ = strconv.ParseFloat(strings.TrimSpace(before), 64)
		}
	}
	return rate, total, err
}

// iperf counts in Gbit.
func iperf(port, seconds int, more ...string) (rate, total float64, err error) {
	args := append([]string{"-c", "127.0.0.1", "-p", fmt.Sprint(port), "-t", fmt.Sprint(seconds), "-J"}, more...)
	out, err := exec.Command("iperf3", args...).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("iperf3: %w: %s", err, out)
	}
	var result struct {
		End struct {
			Sum struct {
				Bytes float64 `json:"bytes"`
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return 0, 0, err
	}
	return result.End.Sum.Rate / 1e9, result.End.Sum.Bytes * 8 / 1e9, nil
}

// idleMemory prints what a relay's own memory grows by for a connection that is
// idle after a first request.
func idleMemory(relays []*relay, n int) error {
	fmt.Printf("memory per idle connection, bytes of the process itself (Pss), %d connections\n", n)
	for _, r := range relays {
		if r.name == "direct" {
			continue
		}
		if err := request(r.web, 50, nil); err != nil {
			return err
		}
		before := r.memory()
		var held []net.Conn
		if err := request(r.web, n, &held); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		after := r.memory()
		for _, c := range held {
			_ = c.Close()
		}
		fmt.Printf("  %-14s %8.0f  (%.1f MB before)\n", r.name, (after-before)/float64(n), before/1e6)
		time.Sleep(300 * time.Millisecond)
	}
	return nil
}

// request opens n connections with one answered request each.
func request(port, n int, held *[]net.Conn) error {
	for range n {
		c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
			return err
		}
		if _, err := c.Read(make([]byte, 1024)); err != nil {
			return err
		}
		if held != nil {
			*held = append(*held, c)
		} else {
			_ = c.Close()
		}
	}
	return nil
}
