package container

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"activator/internal/kernel/fd"
)

// idRange is a line of /etc/subuid or /etc/subgid without the user, subuid(5).
type idRange struct{ first, count int }

// mapIDs gives the user namespace of pid the ids that rootless engines use: 0 is
// our own, 1 and on are the subordinate ones. Only newuidmap(1) and its sibling
// may do that.
func mapIDs(pid, uid, gid int) error {
	for _, m := range []struct {
		program, file string
		id            int
	}{{"newgidmap", "/etc/subgid", gid}, {"newuidmap", "/etc/subuid", uid}} {
		ranges, err := subordinate(m.file, uid)
		if err != nil {
			return err
		}
		if err := run(append([]string{m.program, strconv.Itoa(pid)}, mapping(m.id, ranges)...)); err != nil {
			return err
		}
	}
	return nil
}

// mapping is newuidmap's arguments: triples of inside, outside, count.
func mapping(id int, ranges []idRange) []string {
	argv := []string{"0", strconv.Itoa(id), "1"}
	next := 1
	for _, r := range ranges {
		argv = append(argv, strconv.Itoa(next), strconv.Itoa(r.first), strconv.Itoa(r.count))
		next += r.count
	}
	return argv
}

func subordinate(path string, uid int) ([]idRange, error) {
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	f, err := os.Open(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var ranges []idRange
	if err == nil {
		defer func() { _ = f.Close() }()
		if ranges, err = parseRanges(f, name, strconv.Itoa(uid)); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if len(ranges) == 0 {
		return nil, fmt.Errorf("%s: no subordinate ids for %s: as root, usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", path, name, name)
	}
	return ranges, nil
}

// parseRanges reads the ranges of a user, who is written as name or number.
func parseRanges(r io.Reader, name, number string) ([]idRange, error) {
	var ranges []idRange
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != number {
			continue
		}
		first, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err := errors.Join(err1, err2); err != nil || first <= 0 || count <= 0 {
			return nil, fmt.Errorf("line %q: not user:first:count", lines.Text())
		}
		ranges = append(ranges, idRange{first, count})
	}
	return ranges, lines.Err()
}

// run runs a program to its end.
func run(argv []string) error {
	path, err := lookup(argv[0])
	if err != nil {
		return err
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 2, 2}})
	if err != nil {
		return &os.PathError{Op: "exec", Path: path, Err: err}
	}
	_, status, err := fd.Reap(pid)
	if err != nil {
		return err
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return fmt.Errorf("%s: exit status %d: it must be allowed to map the ids of /etc/subuid and /etc/subgid", strings.Join(argv, " "), status.ExitStatus())
	}
	return nil
}
