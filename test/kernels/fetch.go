package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages downloads Debian's packages and unpacks them. apt has a state of its
// own for it, in the cache, so that what architectures the host's dpkg knows, and
// its lists, stay as they are.
type packages struct {
	dir  string // unpacked, and apt's state
	arch string
}

// options are apt's. It reads the host's sources.
func (p packages) options() []string {
	set := func(name, value string) string { return "-o" + name + "=" + value }
	return []string{set("Dir::State", filepath.Join(p.dir, "apt/state")), set("Dir::Cache", filepath.Join(p.dir, "apt/cache")),
		set("Dir::State::status", filepath.Join(p.dir, "apt/status")), set("APT::Architecture", p.arch), set("APT::Architectures", p.arch),
		set("APT::Sandbox::User", ""), set("Debug::NoLocking", "true"), set("Acquire::Retries", "3"), "-q"}
}

func (p packages) apt(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, append(p.options(), args...)...)
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// refresh gets the lists, once for every run that downloads anything.
func (p packages) refresh(ctx context.Context) error {
	for _, dir := range []string{"apt/state/lists/partial", "apt/cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(p.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(p.dir, "apt/status"), nil, 0o644); err != nil {
		return err
	}
	_, err := p.apt(ctx, "apt-get", "update")
	return err
}

// unpack returns the folder with a package's files. What has been unpacked once is
// taken from the cache.
func (p packages) unpack(ctx context.Context, name string) (string, error) {
	to := filepath.Join(p.dir, name)
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	if err := p.refresh(ctx); err != nil {
		return "", err
	}
	full, err := p.resolve(ctx, name)
	if err != nil {
		return "", err
	}
	fmt.Printf("  download %s for %s\n", full, p.arch)
	if _, err := p.apt(ctx, "apt-get", "download", full); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(p.dir, full+"_*.deb"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("%s: %d files of the package (%v)", p.dir, len(files), err)
	}
	half := to + ".half"
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", files[0], half).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg-deb -x %s: %w: %s", files[0], err, out)
	}
	return to, errors.Join(os.Remove(files[0]), os.Rename(half, to))
}

// resolve follows a package that has nothing but the newest kernel it depends on.
func (p packages) resolve(ctx context.Context, name string) (string, error) {
	if !strings.HasPrefix(name, "linux-image-") {
		return name, nil
	}
	out, err := p.apt(ctx, "apt-cache", "depends", name)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(out, "\n") {
		if _, kernel, found := strings.Cut(line, "Depends: linux-image-"); found {
			return "linux-image-" + kernel, nil
		}
	}
	return "", fmt.Errorf("%s depends on no kernel: %s", name, out)
}
