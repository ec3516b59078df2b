package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"activator/test/kernels/plan"
)

// image is a guest's first file system: an archive as cpio(1) writes with
// --format=newc.
type image struct {
	archive bytes.Buffer
	inode   int
	made    map[string]bool
}

// add adds an entry and the folders above it.
func (m *image) add(path string, mode fs.FileMode, text []byte) {
	path = strings.TrimPrefix(path, "/")
	if m.made[path] {
		return
	}
	if m.made == nil {
		m.made = make(map[string]bool)
	}
	if dir := filepath.Dir(path); dir != "." {
		m.add(dir, fs.ModeDir|0o755, nil)
	}
	m.made[path] = true
	m.put(path, mode, text)
}

// put writes one entry: a header of hexadecimal numbers, the name, the text, each
// up to a multiple of four bytes.
func (m *image) put(path string, mode fs.FileMode, text []byte) {
	kind := uint32(0o100000)
	switch mode.Type() {
	case fs.ModeDir:
		kind = 0o040000
	case fs.ModeSymlink:
		kind = 0o120000
	}
	m.inode++
	fmt.Fprintf(&m.archive, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", m.inode, kind|uint32(mode.Perm()), 0, 0, 1, 0,
		len(text), 0, 0, 0, 0, len(path)+1, 0)
	m.archive.WriteString(path + "\x00")
	m.align()
	m.archive.Write(text)
	m.align()
}

func (m *image) align() { m.archive.Write(make([]byte, -m.archive.Len()&3)) }

func (m *image) link(path, where string) { m.add(path, fs.ModeSymlink|0o777, []byte(where)) }

// addFile adds a file of the host.
func (m *image) addFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	m.add(to, info.Mode().Perm(), text)
	return nil
}

// modules are those of Debian's that a program makes the kernel load: nothing of
// hardware, which has none here.
var modules = []string{"kernel/net/ipv4", "kernel/net/ipv6", "kernel/net/unix", "kernel/net/packet", "kernel/net/netlink", "kernel/net/mptcp",
	"kernel/net/vmw_vsock", "kernel/net/tls", "kernel/net/sched", "kernel/crypto", "kernel/drivers/net/dummy.ko", "kernel/drivers/net/tun.ko",
	"modules.builtin", "modules.builtin.modinfo", "modules.order"}

// addModules adds the kernel's modules, uncompressed: busybox loads no others.
func (m *image) addModules(ctx context.Context, dir string) error {
	versions, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(versions) != 1 {
		return fmt.Errorf("%s: %d kernels (%v)", dir, len(versions), err)
	}
	to := filepath.Join("usr/lib/modules", filepath.Base(versions[0]))
	for _, name := range modules {
		top := filepath.Join(versions[0], name)
		if _, err := os.Stat(top); err != nil {
			top += ".xz"
		}
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // another kernel's
			}
			if err != nil || d.IsDir() {
				return err
			}
			below := filepath.Join(to, strings.TrimPrefix(path, versions[0]))
			if !strings.HasSuffix(path, ".xz") {
				return m.addFile(path, below)
			}
			text, err := exec.CommandContext(ctx, "xz", "-dc", path).Output()
			m.add(strings.TrimSuffix(below, ".xz"), 0o644, text)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const accounts = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"

// fill puts the guest together as Debian lays its folders.
func (m *image) fill(ctx context.Context, b boot, p plan.Plan, programs, kernel, busybox string) error {
	m.add("dev", fs.ModeDir|0o755, nil)
	m.add("usr/sbin", fs.ModeDir|0o755, nil)
	for name, where := range map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "usr/sbin/modprobe": "/usr/bin/busybox", "usr/bin/socat": filepath.Join(plan.Home, "bin/guest"), "init": filepath.Join(plan.Home, "bin/guest")} {
		m.link(name, where)
	}
	m.add("etc/passwd", 0o644, []byte(accounts))
	m.add("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"))
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	m.add(plan.File, 0o644, text)
	files := map[string]string{filepath.Join(busybox, "bin/busybox"): "usr/bin/busybox"}
	built, err := os.ReadDir(programs)
	if err != nil {
		return err
	}
	for _, f := range built {
		files[filepath.Join(programs, f.Name())] = filepath.Join(plan.Home, "bin", f.Name())
	}
	for _, name := range []string{"README.md", "configs/echo.toml", "test/escape/results.tsv", "docs/security.md"} {
		files[name] = filepath.Join(plan.Home, name)
	}
	for _, dir := range p.Packages {
		m.add(filepath.Join(plan.Home, dir), fs.ModeDir|0o755, nil)
		data, err := filepath.Glob(filepath.Join(dir, "testdata/*"))
		if err != nil {
			return err
		}
		for _, f := range data {
			files[f] = filepath.Join(plan.Home, f)
		}
	}
	for from, to := range files {
		if err := m.addFile(from, to); err != nil {
			return err
		}
	}
	if err := m.addModules(ctx, kernel); err != nil {
		return err
	}
	m.put("TRAILER!!!", 0, nil)
	return nil
}
