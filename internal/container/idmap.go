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
)

// idRange is a line of /etc/subuid or /etc/subgid without the user, subuid(5).
type idRange struct{ first, count int }

// readSubordinateIDs returns the ids that newuidmap(1) or newgidmap(1) maps for a user.
func readSubordinateIDs(path string, uid int) ([]idRange, error) {
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

// parseRanges reads the ranges of a user, which is written as name or number.
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
