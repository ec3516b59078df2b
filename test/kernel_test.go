package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"activator/internal/ktest"
)

// kernelsBefore are those whose lacks are answered for, see oldkernel.
var kernelsBefore = []string{"landlock=0,passrights,bpf,killable,threads,peerpidfd", "5.15", "6.1", "6.8", "6.12"}

// No example refuses to start for what an older kernel lacks: the host is fit for the same
// ones, and these start as they stand. What is kept by less is one line of the log. Each is tried on the kernel that lacks
// the most, and in turns on one of the others.
func TestExamplesOnOldKernels(t *testing.T) {
	files, err := filepath.Glob("../configs/*.toml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	removeFolders(t)
	started := 0
	for i, file := range append(files, "../configs/php") {
		if strings.Contains(file, "podman") {
			continue // an engine makes this one's sandbox
		}
		check := []string{program(t, "activator"), "check", "--config", file}
		here, _ := exec.Command(check[0], check[1:]...).CombinedOutput()
		for _, lacks := range []string{kernelsBefore[0], kernelsBefore[1+i%4]} {
			t.Run(lacks+" "+filepath.Base(file), func(t *testing.T) {
				ktest.OldKernel(t, program(t, "oldkernel"), lacks)
				cmd := exec.Command(program(t, "oldkernel"), append([]string{lacks}, check...)...)
				if there, _ := cmd.CombinedOutput(); string(there) != string(here) {
					t.Fatalf("check says\n%s\nand on this kernel\n%s", there, here)
				}
				if cmd.ProcessState.ExitCode() != 0 {
					return // what it needs is not on this host
				}
				t.Setenv("OLDKERNEL", lacks)
				a := activate(t, "--config", file)
				started++
				services := 1
				if strings.HasSuffix(file, "php") {
					services = 2
				}
				if n := a.log.count("level=INFO", "service kept by less"); n > services {
					t.Errorf("%d lines about what is kept by less", n)
				}
				if n := a.log.count("seal incomplete"); n > 0 {
					t.Errorf("not sealed:\n%s", strings.Join(a.log.all(), "\n"))
				}
			})
		}
	}
	if started < 20 {
		t.Errorf("only %d starts", started)
	}
}

// What is kept by less is said by the start and by check alike, of what is asked for by name
// as of what is the default.
func TestKeptByLess(t *testing.T) {
	const passed = "clients can pass descriptors in (no SO_PASSRIGHTS, Linux 6.16)"
	const cut = "in a folder that is passed in, its user's files can be cut off (no Landlock for truncation: ABI 3, Linux 6.2; here it is ABI 2)"
	dir := folder(t)
	for _, test := range []struct{ lacks, sockets, more, want string }{
		{"6.1", `listen = ["unix://DIR/s"]`, "", passed + "; " + cut},
		{"6.1", "listen = [\"unix://DIR/s\"]\npass_rights = false", "", passed + "; " + cut},
		{"6.1", "listen = [\"unix://DIR/s\"]\npass_rights = true", "", cut},
		{"6.1", `listen = ["tcp4://127.0.0.1:3999", "udp4://127.0.0.1:3999", "unixgram://DIR/g"]`, "", ""},
		{"6.1", "listen = [\"unixgram://DIR/g\"]\npass_credentials = true", "",
			passed + "; " + cut + "; unixgram://DIR/g only receives, so that it reaches no abstract name (no scope: ABI 6, Linux 6.12; here it is ABI 2)"},
		{"5.15", `listen = ["unix://DIR/s"]`, "", passed + "; " + strings.Replace(cut, "it is ABI 2", "it is ABI 1", 1)},
		{"5.15", `listen = ["tcp4://127.0.0.1:3999"]`, "[sandbox]\nwritable = [\"DIR\"]",
			"in a folder that is passed in, its user's files can be read and written (no Landlock for files: ABI 2, Linux 5.19; here it is ABI 1)"},
		{"6.1", `listen = ["tcp4://127.0.0.1:3999"]`, "stdout = \"DIR/log\"", ""},
		{"landlock=0,passrights", `listen = ["unix://DIR/s"]`, "",
			passed + "; in a folder that is passed in, its user's files can be read and written (no Landlock for files: ABI 2; here it is off)"},
	} {
		t.Run(test.lacks, func(t *testing.T) {
			ktest.OldKernel(t, program(t, "oldkernel"), test.lacks)
			in := strings.NewReplacer("DIR", dir, "3999", fmt.Sprint(ktest.Port(t)))
			config := configureIn(t, dir, "kept", in.Replace("[[socket]]\n"+test.sockets+"\n[service]\nexec = [\"ECHO\"]\n"+test.more))
			var said []string
			out := command(t, "", program(t, "oldkernel"), test.lacks, program(t, "activator"), "check", "-v", "--config", config)
			for line := range strings.Lines(out) {
				if less, ok := strings.CutPrefix(line, "# less than on a newer kernel: "); ok {
					said = append(said, strings.TrimSpace(less))
				}
			}
			if got := strings.Join(said, "; "); got != in.Replace(test.want) {
				t.Errorf("check says %q, want %q", got, in.Replace(test.want))
			}
			t.Setenv("OLDKERNEL", test.lacks)
			a := activate(t, "--config", config)
			want := 0
			if test.want != "" {
				want = 1
			}
			if n := a.log.count("level=INFO", "service kept by less", in.Replace(test.want)); n != want {
				t.Errorf("%d lines, want %d:\n%s", n, want, strings.Join(a.log.all(), "\n"))
			}
		})
	}
}

// The doctor says of each lack what it costs, and that the default works without.
func TestDoctorOnOldKernels(t *testing.T) {
	for _, lacks := range kernelsBefore[:3] {
		ktest.OldKernel(t, program(t, "oldkernel"), lacks)
		out, err := exec.Command(program(t, "oldkernel"), lacks, program(t, "activator"), "doctor").CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", lacks, err, out)
		}
		for _, want := range []string{"yes  default sandbox", "yes  seal", "NO   refusal of descriptors", "it costs:  the default works"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: %q is missing in\n%s", lacks, want, out)
			}
		}
	}
}

// Where no child can be born into a control group UDP is relayed, and no start fails by it; the
// doctor says what it is.
func TestWithoutClone3(t *testing.T) {
	const lacks = "clone3"
	ktest.OldKernel(t, program(t, "oldkernel"), lacks)
	address := fmt.Sprint("127.0.0.1:", ktest.Port(t))
	file := configureIn(t, folder(t), "echo", "[[socket]]\nlisten = [\"udp://"+address+"\"]\n[service]\nexec = [\"ECHO\"]\n")
	out, err := exec.Command(program(t, "oldkernel"), lacks, program(t, "activator"), "check", "-v", "--config", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "answers only: relay") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, _ := exec.Command(program(t, "oldkernel"), lacks, program(t, "activator"), "doctor").CombinedOutput(); os.Geteuid() == 0 && !strings.Contains(string(out), "clone3 is refused") {
		t.Errorf("the doctor says\n%s", out)
	}
	t.Setenv("OLDKERNEL", lacks)
	a := activate(t, "--config", file)
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answersStill(t, c)
	a.wait("state=running")
}

// Programs that bind and connect unix paths of their own do so where no Landlock stands behind
// the supervisor, too.
func TestProgramsOnOldKernels(t *testing.T) {
	t.Setenv("OLDKERNEL", kernelsBefore[0])
	t.Run("redis binds", TestBindRedis)
	t.Run("nginx connects to php", TestExamplePHP)
	t.Run("with connect", TestBindOpened)
}

// removeFolders takes away what examples as they stand make below %t and, as root, for
// their state, at the test's end.
func removeFolders(t *testing.T) {
	t.Helper()
	patterns := []string{os.Getenv("XDG_RUNTIME_DIR") + "/activator-*"}
	if os.Getuid() == 0 {
		patterns = []string{"/run/activator-*", "/var/lib/activator-*", "/var/cache/activator-*", "/var/log/activator-*"}
	}
	folders := func() (all []string) {
		for _, pattern := range patterns {
			found, _ := filepath.Glob(pattern)
			all = append(all, found...)
		}
		return all
	}
	before := folders()
	t.Cleanup(func() {
		for _, path := range folders() {
			if !slices.Contains(before, path) {
				_ = os.RemoveAll(path)
			}
		}
	})
}
