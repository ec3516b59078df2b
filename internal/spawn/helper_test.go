package spawn

import (
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
)

// helper is the test binary as a service. It never returns.
func helper(args []string) {
	switch args[0] {
	case "view":
		view()
	case "exit":
		var code int
		_, _ = fmt.Sscan(args[1], &code)
		os.Exit(code)
	case "sleep":
		select {}
	case "term":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		os.Exit(7)
	}
	os.Exit(0)
}

// view prints what the process sees of the world.
func view() {
	fmt.Println("pid", os.Getpid(), "uid", os.Getuid(), "gid", os.Getgid())
	status, _ := readStatus(os.Getpid())
	for _, key := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Groups"} {
		fmt.Println(key, status[key])
	}
	env := os.Environ()
	sort.Strings(env)
	fmt.Println(strings.Join(env, "\n"))
	data, _ := os.ReadFile("/proc/self/mountinfo")
	fmt.Print(string(data))
	es, _ := os.ReadDir("/")
	for _, e := range es {
		fmt.Print(e, " ")
	}
	fmt.Println()
	es, _ = os.ReadDir("/proc/self/fd")
	for _, e := range es {
		t, _ := os.Readlink("/proc/self/fd/" + e.Name())
		fmt.Println("fd", e.Name(), t)
	}
}
