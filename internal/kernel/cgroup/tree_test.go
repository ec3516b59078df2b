package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// roleVariable makes the test binary one of the processes under test, each of which waits for a line
// before it begins.
const (
	roleVariable = "CGROUP_ROLE"
	roleDivide   = "divide" // divides its group, prints what comes of it, and undoes it
	roleHog      = "hog"    // takes memory
	roleFork     = "fork"   // starts processes, and prints how many it could
	roleIdle     = "idle"
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		ktest.Main(m)
	default:
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		map[string]func(){roleDivide: divideAndTell, roleHog: takeMemory, roleFork: startMany, roleIdle: waitForEnd}[role]()
	}
	os.Exit(0)
}

func waitForEnd() { _, _ = io.Copy(io.Discard, os.Stdin) }

func takeMemory() {
	for range 1 << 10 {
		piece := make([]byte, 1<<20)
		for i := 0; i < len(piece); i += 512 {
			piece[i] = 1
		}
		kept = append(kept, piece)
	}
}

var kept [][]byte

func startMany() {
	started := 0
	for range 40 {
		c := exec.Command("/proc/self/exe")
		c.Env = []string{roleVariable + "=" + roleIdle}
		if in, err := c.StdinPipe(); err == nil && c.Start() == nil {
			defer c.Wait()
			defer in.Close()
			started++
		}
	}
	fmt.Println(started)
}

// child is a process in a role, in a group if there is one, that has not begun.
type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startRole(t testing.TB, role string, in *os.File, uid uint32) *child {
	t.Helper()
	c := &child{Cmd: exec.Command("/proc/self/exe")}
	c.Env, c.Stderr = append(os.Environ(), roleVariable+"="+role, "GOMAXPROCS=1"), os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if in != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(in.Fd())
	}
	if uid != 0 {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	var err error
	if c.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// finish has it begin, and returns what it prints and how it ended.
func (c *child) finish() (said string, err error) {
	_, _ = io.WriteString(c.in, "\n")
	_ = c.in.Close()
	text, _ := io.ReadAll(c.out)
	return string(text), c.Wait()
}

const testPrefix = "activator-test-"

// divideAndTell is the whole life of a tree, in whatever group we are.
func divideAndTell() {
	tell := func(what string, err error) {
		if err != nil {
			fmt.Printf("%s: %v\n", what, err)
			os.Exit(0)
		}
	}
	before, _ := os.ReadFile(ownGroupFile)
	tree, err := Divide(testPrefix)
	tell("divide", err)
	tell("all", tree.LimitMemory(1<<30))
	group, unkept, err := tree.OpenService("a", spec.Resources{MemoryMax: 64 << 20, TasksMax: 30, CPUWeight: 50})
	tell("open", err)
	fmt.Println("unkept", len(unkept))
	weight, _ := readWords(group.Dir(), "cpu.weight")
	fmt.Println("weight", strings.Join(weight, " "))
	for _, role := range []string{roleFork, roleHog} {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), roleVariable+"="+role)
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		tell("start", c.Start())
		tell("add", group.Add(c.Process.Pid))
		_, _ = io.WriteString(in, "\n")
		said, _ := io.ReadAll(out)
		_ = in.Close()
		_ = c.Wait()
		fmt.Println(role, c.ProcessState, strings.TrimSpace(string(said)))
	}
	fmt.Println("killed", group.TakeKilled(), group.TakeKilled())
	group.Close()
	tree.Close()
	after, _ := os.ReadFile(ownGroupFile)
	fmt.Println("back", string(before) == string(after))
}

// wants are the lines of divideAndTell where everything is kept.
var wants = []string{"unkept 0", "weight 50", "hog signal: killed", "killed 1 0", "back true"}

func checkDivided(t *testing.T, said string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(said, want+"\n") && !strings.Contains(said, want+" \n") {
			t.Errorf("%q is missing in:\n%s", want, said)
		}
	}
	_, text, _ := strings.Cut(said, "fork exit status 0 ")
	text, _, _ = strings.Cut(text, "\n")
	if n, err := strconv.Atoi(text); err != nil || n >= 30 || n < 1 {
		t.Errorf("%q processes could be started of 40, with tasks_max 30:\n%s", text, said)
	}
}

// ownDirectory is the directory of our own group as the host has it mounted.
func ownDirectory(t *testing.T) *os.File {
	t.Helper()
	groups, err := Find(testPrefix)
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	t.Cleanup(groups.Close)
	own, err := groups.OpenOwn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	return own
}

// makeBase makes a group below ours that has the controllers, and is given to a user.
func makeBase(t *testing.T, uid int) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root gives groups to others")
	}
	own := ownDirectory(t)
	offered, err := readWords(own, "cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(offered, "memory") {
		t.Skip("cgroup v2 has no controllers here: they are cgroup v1's")
	}
	for _, name := range controllers {
		if err := writeFile(own, enabledFile, "+"+name); err != nil {
			t.Skipf("our group cannot be divided: %v", err)
		}
	}
	name := fmt.Sprintf("base-%s-%d", filepath.Base(t.Name()), os.Getpid())
	mustMake := unix.Mkdirat(int(own.Fd()), name, 0o755)
	if mustMake != nil {
		t.Fatal(mustMake)
	}
	t.Cleanup(func() {
		if err := removeDirectory(own, name); err != nil {
			t.Errorf("something is left in the base: %v", err)
		}
	})
	base, err := openDirectory(own, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	for _, file := range []string{".", procsFile, enabledFile, "cgroup.threads"} {
		if err := unix.Fchownat(int(base.Fd()), file, uid, uid, 0); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

// A group that is delegated: we move to a part of it, and back in the end. To root, and to a user.
func TestDivideDelegated(t *testing.T) {
	for _, uid := range []uint32{0, 65534} {
		t.Run(fmt.Sprint(uid), func(t *testing.T) {
			base := makeBase(t, int(uid))
			said, err := startRole(t, roleDivide, base, uid).finish()
			if err != nil {
				t.Error(err)
			}
			checkDivided(t, said)
		})
	}
}

// The root of all groups has processes, and may be divided all the same.
func TestDivideRoot(t *testing.T) {
	makeBase(t, 0) // or skip
	said, err := startRole(t, roleDivide, nil, 0).finish()
	if err != nil {
		t.Error(err)
	}
	checkDivided(t, said)
}

// Others are in our group: it cannot be divided, and nothing is left of the try.
func TestDivideShared(t *testing.T) {
	base := makeBase(t, 0)
	other := startRole(t, roleIdle, base, 0)
	said, err := startRole(t, roleDivide, base, 0).finish()
	if err != nil || !strings.Contains(said, "other processes share our cgroup") {
		t.Errorf("%v\n%s", err, said)
	}
	if _, err := other.finish(); err != nil {
		t.Error(err)
	}
}

// Without controllers the error says where they are, and nothing has changed.
func TestDivideWithoutControllers(t *testing.T) {
	own := ownDirectory(t)
	if offered, err := readWords(own, "cgroup.controllers"); err != nil || slices.Contains(offered, "memory") {
		t.Skipf("cgroup v2 has controllers here: %v, %v", offered, err)
	}
	_, examined := Examine(spec.Resources{MemoryMax: 1})
	_, err := Divide(testPrefix)
	for _, err := range []error{err, examined} {
		if err == nil || !strings.Contains(err.Error(), "cgroup v1") {
			t.Errorf("%v", err)
		}
	}
	names, _ := own.Readdirnames(-1)
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, testPrefix) }) {
		t.Errorf("left: %v", names)
	}
}

// What a killed activator has left is removed by the next one, but for what is in use.
func TestSweepBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes groups here")
	}
	groups, err := Mount(testPrefix + "sweep-")
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	defer groups.Close()
	own, err := groups.OpenOwn()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	at := int(own.Fd())
	for _, name := range []string{"1-1", "1-1/a.service", "1-1/b.service"} {
		if err := unix.Mkdirat(at, testPrefix+"sweep-"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	used, err := groups.Make()
	if err != nil {
		t.Fatal(err)
	}
	if err := groups.Sweep(); err != nil {
		t.Fatal(err)
	}
	if !used.IsCurrent() {
		t.Error("a group in use was removed")
	}
	used.Close()
	if err := unix.Fstatat(at, testPrefix+"sweep-1-1", new(unix.Stat_t), 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("it is left: %v", err)
	}
}
