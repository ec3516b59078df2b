package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"activator/test/kernels/plan"
)

// silence is how long a guest may print nothing: only one that hangs exceeds it. A boot
// as a whole has no bound, since busy processors make an emulated one as slow as they like.
const silence = 10 * time.Minute

// How long a client of the five lines waits for its answer: as socat does, or in
// software emulation as long as only a hang takes.
const (
	socatTimeout    = 500 * time.Millisecond
	emulatedTimeout = time.Minute
)

// machine boots guests, one at a time.
type machine struct {
	cache string
	kvm   func() bool       // asked once
	built map[string]string // the folder with our programs, by architecture
}

// outcome is what came of a boot.
type outcome struct {
	boot
	release string   // of the kernel
	steps   []string // that it was to take
	records []plan.Record
	wrong   []string
	spent   time.Duration
}

func (m *machine) boot(ctx context.Context, b boot) (o outcome) {
	o.boot = b
	if b.notRun != "" {
		fmt.Printf("  not run: %s\n", b.notRun)
		return o
	}
	start := time.Now()
	err := m.run(ctx, b, &o)
	var absent *absentError
	switch {
	case err == nil:
	case errors.As(err, &absent) && os.Getenv("CI") != "true":
		o.notRun = err.Error()
		fmt.Printf("  not run: %s\n", o.notRun)
	default:
		o.wrong = append(o.wrong, err.Error())
	}
	o.spent = time.Since(start)
	return o
}

// absentError is the error of a kernel that cannot be had here: without a network, or
// from another distribution's packages. In CI it is a failure.
type absentError struct{ err error }

func (e *absentError) Error() string { return e.err.Error() }
func (e *absentError) Unwrap() error { return e.err }

// fetch returns the unpacked packages of the kernel and of busybox.
func (m *machine) fetch(ctx context.Context, b boot) (kernel, busybox string, err error) {
	p := packages{dir: filepath.Join(m.cache, b.arch), arch: b.arch}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return "", "", err
	}
	if kernel, err = p.unpack(ctx, b.pkg); err != nil {
		return "", "", &absentError{err}
	}
	if busybox, err = p.unpack(ctx, "busybox-static"); err != nil {
		return "", "", &absentError{err}
	}
	return kernel, busybox, nil
}

func (m *machine) run(ctx context.Context, b boot, o *outcome) error {
	kernel, busybox, err := m.fetch(ctx, b)
	if err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("%s: %d kernels (%v)", kernel, len(images), err)
	}
	o.release = strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if !strings.HasPrefix(o.release, b.kernel.name+".") {
		return &absentError{fmt.Errorf("%s of this distribution is %s", b.pkg, o.release)}
	}
	programs, err := m.build(ctx, b)
	if err != nil {
		return err
	}
	fast, timeout := m.accelerated(ctx, b.arch, images[0]), emulatedTimeout
	if fast {
		timeout = socatTimeout
	}
	var fs image
	steps := b.plan(timeout)
	if err := fs.fill(ctx, b, steps, programs, kernel, busybox); err != nil {
		return err
	}
	initrd := filepath.Join(m.cache, fmt.Sprintf("initrd.%d", os.Getpid()))
	if err := os.WriteFile(initrd, fs.archive.Bytes(), 0o644); err != nil {
		return err
	}
	defer os.Remove(initrd)
	console := filepath.Join(m.cache, "console "+strings.ReplaceAll(b.name(), "/", "")+".txt")
	err = o.watch(ctx, m.command(ctx, b, images[0], initrd, fast), console)
	o.steps = steps.Steps
	o.judge(steps)
	if len(o.wrong) > 0 || err != nil {
		err = errors.Join(err, fmt.Errorf("the console is in %s", console))
	}
	return err
}

// build builds our own programs and tests for the guest, static.
func (m *machine) build(ctx context.Context, b boot) (string, error) {
	if dir, done := m.built[b.arch]; done {
		return dir, nil
	}
	dir := filepath.Join(m.cache, b.arch, "programs")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return "", err
	}
	built := [][]string{{"build", "activator", "./cmd/activator"}, {"build", "echo", "./cmd/echo"}, {"build", "intruder", "./test/escape/intruder"},
		{"build", "guest", "./test/kernels/guest"}, {"test -c", "test-escape.test", "./test/escape"}}
	if *all && *steps == "" || slices.Contains(strings.Split(*steps, ","), plan.Packages) {
		for _, p := range tested {
			built = append(built, []string{"test -c", strings.ReplaceAll(p, "/", "-") + ".test", "./" + p})
		}
	}
	for _, w := range built {
		args := append(strings.Fields(w[0]), "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, w[1]), w[2])
		if w[0] == "build" {
			args = append([]string{args[0], "-buildvcs=false"}, args[1:]...)
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	m.built[b.arch] = dir
	return dir, nil
}

// command is qemu. The guest has no hardware but its console.
func (m *machine) command(ctx context.Context, b boot, kernel, initrd string, accelerated bool) *exec.Cmd {
	program, kind, console := "qemu-system-x86_64", "q35", "ttyS0"
	if b.arch == "arm64" {
		program, kind, console = "qemu-system-aarch64", "virt", "ttyAMA0"
	}
	accelerator, cpu := "tcg", "max"
	if b.arch == "arm64" {
		cpu = "max,pauth-impdef=on" // the architecture's own signatures of pointers are slow to emulate
	}
	if accelerated {
		accelerator, cpu = "kvm", "host"
	}
	args := []string{"-machine", kind, "-accel", accelerator, "-cpu", cpu, "-smp", "2", "-m", "1536", "-nodefaults", "-nographic", "-no-reboot",
		"-serial", "stdio", "-kernel", kernel, "-append", strings.TrimSpace("console=" + console + " quiet panic=-1 " + b.cmdline)}
	if initrd != "" {
		args = append(args, "-initrd", initrd)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// accelerated reports whether KVM works here, by trying: where it can be opened it
// may still not run anything. A kernel without a file system says soon that it has
// none.
func (m *machine) accelerated(ctx context.Context, arch, kernel string) bool {
	if arch != runtime.GOARCH {
		return false
	}
	if m.kvm == nil {
		m.kvm = sync.OnceValue(func() bool {
			f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
			if err != nil {
				return false
			}
			f.Close()
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			out, _ := m.command(ctx, boot{kernel: kernelOf(arch)}, kernel, "", true).CombinedOutput() // it ends with a panic
			return bytes.Contains(out, []byte("Unable to mount root fs"))
		})
	}
	return m.kvm()
}

func kernelOf(arch string) kernel { return kernel{arch: arch} }

// watch runs a guest, shows what it does and keeps its console.
func (o *outcome) watch(ctx context.Context, cmd *exec.Cmd, console string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hang := time.AfterFunc(silence, func() { cancel(fmt.Errorf("it has printed nothing for %v", silence)) })
	defer hang.Stop()
	kept, err := os.Create(console)
	if err != nil {
		return err
	}
	defer kept.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = kept
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: install qemu-system-x86 and qemu-system-arm", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	over := false
	for s := bufio.NewScanner(io.TeeReader(out, kept)); s.Scan(); {
		hang.Reset(silence)
		over = over || plan.IsOver(s.Text())
		if r, ok := plan.Parse(s.Text()); ok {
			o.records = append(o.records, r)
			fmt.Printf("  %-4s  %-9s  %s\n", r.User, r.Step, tell(r))
		}
	}
	switch err := cmd.Wait(); {
	case ctx.Err() != nil:
		return fmt.Errorf("not over: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("qemu: %w", err)
	case !over:
		return errors.New("the guest ended before it was over")
	}
	return nil
}

// tell is a record in words.
func tell(r plan.Record) string {
	text := fmt.Sprintf("%d of %d in %.1f s", r.Got, r.Want, r.Seconds)
	if r.Step == plan.Escape {
		text = fmt.Sprintf("%d ways out, %s", r.Out, text)
	}
	if r.Skipped > 0 {
		text += fmt.Sprintf(", %d skipped", r.Skipped)
	}
	if len(r.Again) > 0 {
		text += ", once more alone: " + strings.Join(r.Again, " ")
	}
	if !r.OK() {
		text += "  <- WRONG"
	}
	return text
}

// judge says what is not as it should be: a record that is missing is wrong too.
func (o *outcome) judge(p plan.Plan) {
	for _, r := range o.records {
		if !r.OK() {
			o.wrong = append(o.wrong, fmt.Sprintf("%s: %s: %s: %s", r.User, r.Step, tell(r), strings.Join(r.Said, "; ")))
		}
	}
	for _, user := range []string{plan.Root, plan.User} {
		for _, step := range p.Steps {
			if _, refused := p.Refused[user]; refused && !plan.SaysRefusal(step) {
				continue
			}
			if o.find(user, step) == nil {
				o.wrong = append(o.wrong, user+": "+step+": was not taken")
			}
		}
	}
}

func (o *outcome) find(user, step string) *plan.Record {
	for i := range o.records {
		if r := &o.records[i]; r.User == user && r.Step == step {
			return r
		}
	}
	return nil
}
