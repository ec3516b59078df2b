package advice

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"activator/internal/spec"
)

// complaint is a cause that a program names in its own words.
type complaint struct {
	words pattern // all of it
	cause pattern // nil: the hint is about the last path in the line
	hint  func(at string) string

	except pattern // not this; nil: nothing
	writes bool    // it wants to write
}

// complaints are tried in this order.
var complaints = []complaint{
	{newPattern(`(?i)invalid argument|\bEINVAL\b|operation not permitted|\bEPERM\b`),
		newPattern(`(?i)\bl?chown|\bset(e|re|res|fs)?[ug]id\b|\bsetgroups\b|\binitgroups\b|(drop|switch|chang)\w* (to |the |its )?(user|group|owner|privilege)|setting (supplementary )?groups`),
		func(string) string {
			return "it changes its user or the owner of a file, and inside there is one user only: have it stay who it is, by its own configuration, or give it that user by user = \"NAME\" below [service]"
		}, nil, false},
	{newPattern(`(?i)\b(unknown|no such|invalid) (system )?(user|group)\b|\bgetpw(nam|uid)|\bgetgr(nam|gid)|(can't|cannot|could not|unable to|failed to) (find|get|look ?up|determine|resolve) (the )?(system )?(user|group|uid|gid)\b`),
		newPattern(`.`),
		func(string) string {
			return "it looks for a user that is not in the passwd(5) or group(5) that it sees: name one that is, by its own configuration, or by user = \"NAME\" below [service]"
		}, nil, false},
	{newPattern(`(?i)no such file or directory|\bENOENT\b|NoSuchFile`), nil, hintAtMissing, others, false},
	{newPattern(`(?i)read-only file system|\bEROFS\b`), nil, hintAtReadOnly, nil, true},
	{newPattern(`(?i)permission denied|\bEACCES\b`), nil, hintAtDenied, others, false},
	{newPattern(`(?i)too many open files|\bEMFILE\b`), newPattern(`.`), func(string) string {
		return "it has no descriptor left: write limits = { nofile = NUMBER } below [service]"
	}, nil, false},
}

// anyPath is a path in a line: not what comes behind a digit or a letter, as in a date or a ratio.
var anyPath = newPattern("(?:^|[\\s'\"`=(:,\\[<\u201c\u2018])(/[^\\s'\"`:,;()<>\\[\\]\u201d\u2019]+)")

// ReadLine returns what to write for what a line of a program's complains of; "": nothing. has reports whether the service
// has a path already; and may write it, where that is asked.
func ReadLine(line string, has func(path string, writable bool) bool) string {
	last := ""
	if found := anyPath().FindAllStringSubmatch(line, -1); found != nil {
		last = path.Clean(strings.TrimRight(found[len(found)-1][1], ".")) // the last one: before it are the program, and its script
	}
	for _, c := range complaints {
		at := last
		if has(at, c.writes) {
			at = ""
		}
		if !c.words.MatchString(line) || c.except != nil && c.except.MatchString(line) {
			continue
		}
		if c.cause == nil && at != "" || c.cause != nil && c.cause.MatchString(line) {
			return c.hint(at)
		}
	}
	return ""
}

// others are the words of a program that looks for another one's socket: the filter's answer to that is told of the next run.
var others = newPattern(`(?i)connect|\bbind|\blisten|socket|\.sock\b`)

// shown are folders of which the program sees the host's, or what is its own: what is not there is not there for a reason
// that nobody sees from here.
var shown = newPattern(`^/(usr|etc|bin|sbin|lib[^/]*|proc|dev)(/|$)`)

// hintAtMissing is about what the program opens, or makes a file in, and is not there.
func hintAtMissing(at string) string {
	if shown.MatchString(at) {
		return ""
	}
	if own := ownLine(at); own != "" {
		return fmt.Sprintf("%s is not there inside: write %s", at, own)
	}
	if at == "/sys" || strings.HasPrefix(at, "/sys/") {
		at = "/sys"
	}
	folder := path.Dir(at)
	switch here := isThere(at); {
	case spec.IsBelow(at, "/var/log"), !here && broad.MatchString(folder) && isFolder(folder): // it is to be written
		return fmt.Sprintf("%s is not there inside: %s", at, elsewhere)
	case !here && isFolder(folder):
		return fmt.Sprintf("%s is not there, inside or on the host: write writable = [%q] below [sandbox] if the program makes it", at, folder)
	case !here:
		return fmt.Sprintf("%s is not there, inside or on the host: make it, and write read_only = [%q] below [sandbox]", at, at)
	}
	return fmt.Sprintf("%s is not there inside: write read_only = [%q] below [sandbox] if it is the host's", at, at)
}

// isThere reports whether the host has something at a path, or may have: an ordinary user does not see all.
func isThere(at string) bool {
	_, err := os.Lstat(at)
	return !errors.Is(err, os.ErrNotExist)
}

func hintAtReadOnly(at string) string {
	if folder := path.Dir(at); !shown.MatchString(at) && folder != "/" && !strings.HasPrefix(at, "/sys/") {
		return fmt.Sprintf("%s is read-only inside: write writable = [%q] below [sandbox]", at, folder)
	}
	return fmt.Sprintf("%s is read-only inside: %s", at, elsewhere)
}

func hintAtDenied(at string) string {
	switch own := ownLine(at); {
	case strings.HasPrefix(at, "/proc/"), strings.HasPrefix(at, "/dev/"):
		return ""
	case own != "":
		return fmt.Sprintf("its user has no right to %s: write %s", at, own)
	}
	return noRight(at)
}

func noRight(at string) string {
	return fmt.Sprintf("its user has no right to %s: give it that on the host, or the user who has it by user = \"NAME\" below [service]", at)
}

// elsewhere is what helps a program that writes where it cannot.
const elsewhere = "have the program write to a directory of its own, by state_directory = \"NAME\" below [service], or to /run, /tmp or /var"

// ownLine is what to write for a path where programs keep what is their own; "": it is none. The directories of an ordinary
// user are elsewhere, and a program that does not ask $STATE_DIRECTORY does not find them.
func ownLine(at string) string {
	d := ownDirectory(at)
	switch {
	case d.Kind == "":
		return ""
	case os.Geteuid() == 0:
		return fmt.Sprintf("%s_directory = %q below [service] if it is the only one who keeps things there: the host's folder is its own then", d.Kind, d.Name)
	}
	folder := path.Join(ownFolder(d.Kind), d.Name)
	return fmt.Sprintf("tmpfs = [%q] below [sandbox], which is empty for each run, or for what stays writable = [\"FOLDER:%s\"], with a folder of yours", folder, folder)
}

// ownFolders are the folders in which programs keep what is their own, and the kind of directory that one in them is.
var ownFolders = [][2]string{{"/var/lib/", "state"}, {"/var/cache/", "cache"}, {"/var/log/", "logs"}, {"/run/", "runtime"}}

// ownName is the name of such a directory. With a dot it is a file's, mostly.
var ownName = newPattern(`^[A-Za-z0-9_@+-]+$`)

// ownDirectory is the directory of a service's own that a path lies in, as programs keep them; zero: none.
func ownDirectory(at string) spec.Directory {
	at = cleanRun(at)
	for _, own := range ownFolders {
		if rest, ok := strings.CutPrefix(at, own[0]); ok {
			if name, _, _ := strings.Cut(rest, "/"); ownName.MatchString(name) {
				return spec.Directory{Kind: own[1], Name: name}
			}
		}
	}
	return spec.Directory{}
}

// cleanRun is a path without the link /var/run.
func cleanRun(at string) string {
	if rest, ok := strings.CutPrefix(at, "/var/run/"); ok {
		return "/run/" + rest
	}
	return at
}
