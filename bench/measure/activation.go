package measure

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"activator/bench/stand"
)

// settle is how long each contender stands before a client comes: one that printed that
// it is ready may not be waiting yet.
const settle = 10 * time.Millisecond

// ourActivation is an activator whose service ends after each answer.
type ourActivation struct {
	process *stand.Process
	port    int
	ready   string // the line that says that the next client may come
	first   bool   // the first client may come without it
}

// ours opens an activator, run by as. more goes into the configuration: keys of
// [service] first.
func ours(as func(*Bench) (*stand.Person, error), warm bool, more string) func(*Bench) (bout, error) {
	return func(b *Bench) (bout, error) {
		who, err := as(b)
		if err != nil {
			return nil, err
		}
		port := stand.Port()
		text := fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [%q, \"--exit-after\", \"1\"]\nwarm = %v\n%s%s",
			port, b.Program("echo"), warm, stand.Quick, more)
		return openOurs(b, who, port, warm, text)
	}
}

func openOurs(b *Bench, who *stand.Person, port int, warm bool, text string) (bout, error) {
	p, err := b.Activator(who, text)
	if err != nil {
		return nil, err
	}
	a := &ourActivation{process: p, port: port, ready: "state=listening", first: !warm}
	if warm {
		a.ready = "state=warm "
	}
	return a, nil
}

func (a *ourActivation) close() { a.process.Stop() }

func (a *ourActivation) measure() (float64, error) {
	if err := a.await(); err != nil {
		return 0, err
	}
	took, err := stand.FirstByte(a.port)
	return milliseconds(took), err
}

// await waits until no service runs and the next client may come.
func (a *ourActivation) await() error {
	if !a.first {
		if _, err := a.process.Next(a.ready); err != nil {
			return err
		}
	}
	a.first = false
	time.Sleep(settle)
	return nil
}

// peerActivation is systemd-socket-activate, which starts one program and is that
// program from then on: so it is started anew for each client. That is not part of
// what is measured.
type peerActivation struct {
	b    *Bench
	as   *stand.Person
	argv []string // what it starts
}

func peer(as func(*Bench) (*stand.Person, error), argv ...string) func(*Bench) (bout, error) {
	return func(b *Bench) (bout, error) {
		who, err := as(b)
		if err != nil {
			return nil, err
		}
		for _, program := range []string{"systemd-socket-activate", argv[0]} {
			if program == "ECHO" {
				continue
			}
			if _, err := stand.Find(program); err != nil {
				return nil, err
			}
		}
		p := &peerActivation{b: b, as: who}
		for _, arg := range argv {
			if arg == "ECHO" {
				arg = b.Program("echo")
			}
			p.argv = append(p.argv, arg)
		}
		return p, nil
	}
}

func (p *peerActivation) close() {}

func (p *peerActivation) measure() (float64, error) {
	port := stand.Port()
	argv := append([]string{"systemd-socket-activate", "-l", "127.0.0.1:" + strconv.Itoa(port)}, p.argv...)
	process, err := p.b.Start(p.as, nil, argv...)
	if err != nil {
		return 0, err
	}
	defer process.Stop()
	if _, err := process.Next("Listening on"); err != nil {
		return 0, err
	}
	time.Sleep(settle)
	took, err := stand.FirstByte(port)
	if err != nil {
		return 0, fmt.Errorf("%w; %s", err, process.Tail())
	}
	return milliseconds(took), process.Ended()
}

// The users that run a contender.
var (
	asSelf = func(*Bench) (*stand.Person, error) { return stand.Self, nil }
	asUser = func(b *Bench) (*stand.Person, error) { return b.AsUser() }
	asRoot = func(*Bench) (*stand.Person, error) { return stand.AsRoot() }
)

const image = "localhost/activator-bench"

// makeImage makes the image that both of podman's cases start, without a registry.
var makeImage = sync.OnceValue(func() error {
	if _, err := stand.Find("podman"); err != nil {
		return err
	}
	script, err := filepath.Abs("../test/image.sh")
	if err != nil {
		return err
	}
	out, err := exec.Command(script, image, "../bin/echo").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
})

// oursInPodman is the activator with [container].
func oursInPodman(b *Bench) (bout, error) {
	if err := makeImage(); err != nil {
		return nil, err
	}
	port := stand.Port()
	return openOurs(b, stand.Self, port, false, fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\n%s"+
		"[container]\nimage = %q\ncommand = [\"--exit-after\", \"1\"]\n", port, stand.Quick, image))
}

// peerPodman starts podman run with what our own [container] asks for, in a mount
// namespace with a cgroup2 file system of its own: where cgroups are hybrid podman
// refuses the host's. That costs 2 ms.
func peerPodman(b *Bench) (bout, error) {
	if err := makeImage(); err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return peer(asSelf, append([]string{"podman"}, podmanRun...)...)(b)
	}
	const prepare = `mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && exec podman "$@"`
	return peer(asSelf, append([]string{"unshare", "--mount", "/bin/sh", "-c", prepare, "podman"}, podmanRun...)...)(b)
}

var podmanRun = []string{"run", "--rm", "--network=none", "--pull=never", "--log-driver=passthrough", "--cgroups=disabled",
	"--cap-drop=all", "--read-only", "--security-opt=no-new-privileges", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024",
	image, "--exit-after", "1"}

// unshareNet is a network namespace and nothing else. Without root it takes a user
// namespace, too.
func unshareNet() []string {
	if os.Getuid() == 0 {
		return []string{"unshare", "-n"}
	}
	return []string{"unshare", "-rn"}
}
