package service

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"activator/internal/process"
	"activator/internal/spec"
)

// earlyEnd is how long a program that fails must have run to be taken for one that works: what it
// lacks it would have missed before.
const earlyEnd = 10 * time.Second

// endedEarly reports whether a program has failed so soon that it does not work at all, mostly.
func (p *run) endedEarly() bool {
	return p.failed && p.stage >= stageRunning && (p.stage < stageUp || time.Since(p.started) < earlyEnd)
}

// mostLines is how many of the last lines of a program may say why it has failed.
const mostLines = 5

// hintAt says, once, what to write for a program that has ended early, if its last words tell what it lacks. What it
// was refused by the filter is told of the next run, which is observed.
func (s *shared) hintAt(r report) {
	lines := append(slices.Clone(r.lines[max(0, len(r.lines)-mostLines):]), r.words)
	for _, line := range slices.Backward(lines) {
		if hint := s.findHint(line); hint != "" {
			s.tell(s.run.pid(), "program has failed, maybe since "+hint)
			return
		}
	}
}

// hints are what the log has been told of the programs of a service. Any goroutine may ask.
type hints struct {
	mu   sync.Mutex
	told map[string]bool
}

// mostHints bounds them: a program may have a new name in each of its errors.
const mostHints = 16

// isNew reports whether a hint is to be told, which it is once.
func (h *hints) isNew(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told[text] || len(h.told) == mostHints {
		return false
	}
	if h.told == nil {
		h.told = map[string]bool{}
	}
	h.told[text] = true
	return true
}

// tell tells a hint, once.
func (s *Service) tell(pid int, text string) {
	if s.hinted.isNew(text) {
		s.log.Warn(text, "pid", pid)
	}
}

// complaint is a cause that a program names in its own words.
type complaint struct {
	words *regexp.Regexp // all of it
	cause *regexp.Regexp // nil: the hint is about the last path in the line
	hint  func(at string) string

	except *regexp.Regexp // not this; nil: nothing
}

// complaints are tried in this order.
var complaints = []complaint{
	{regexp.MustCompile(`(?i)invalid argument|\bEINVAL\b|operation not permitted|\bEPERM\b`),
		regexp.MustCompile(`(?i)\bl?chown|\bset(e|re|res|fs)?[ug]id\b|\bsetgroups\b|\binitgroups\b|(drop|switch|chang)\w* (to |the |its )?(user|group|owner|privilege)|setting (supplementary )?groups`),
		func(string) string {
			return "it changes its user or the owner of a file, and inside there is one user only: have it stay who it is, by its own configuration, or give it that user by user = \"NAME\" below [service]"
		}, nil},
	{regexp.MustCompile(`(?i)\b(unknown|no such|invalid) (system )?(user|group)\b|\bgetpw(nam|uid)|\bgetgr(nam|gid)|(can't|cannot|could not|unable to|failed to) (find|get|look ?up|determine|resolve) (the )?(system )?(user|group|uid|gid)\b`),
		regexp.MustCompile(`.`),
		func(string) string {
			return "it looks for a user that is not in the passwd(5) or group(5) that it sees: name one that is, by its own configuration, or by user = \"NAME\" below [service]"
		}, nil},
	{regexp.MustCompile(`(?i)no such file or directory|\bENOENT\b|NoSuchFile`), nil, hintAtMissing, others},
	{regexp.MustCompile(`(?i)read-only file system|\bEROFS\b`), nil, hintAtReadOnly, nil},
	{regexp.MustCompile(`(?i)permission denied|\bEACCES\b`), nil, hintAtDenied, others},
	{regexp.MustCompile(`(?i)too many open files|\bEMFILE\b`), regexp.MustCompile(`.`), func(string) string {
		return "it has no descriptor left: write limits = { nofile = NUMBER } below [service]"
	}, nil},
}

// anyPath is a path in a line: not what comes behind a digit or a letter, as in a date or a ratio.
var anyPath = regexp.MustCompile("(?:^|[\\s'\"`=(:,\\[<\u201c\u2018])(/[^\\s'\"`:,;()<>\\[\\]\u201d\u2019]+)")

// findHint returns what to write for what a line complains of; "": nothing.
func (s *shared) findHint(line string) string {
	at := ""
	if found := anyPath.FindAllStringSubmatch(line, -1); found != nil {
		at = path.Clean(strings.TrimRight(found[len(found)-1][1], ".")) // the last one: before it are the program, and its script
	}
	if s.has(at) {
		at = ""
	}
	for _, c := range complaints {
		if !c.words.MatchString(line) || c.except != nil && c.except.MatchString(line) {
			continue
		}
		if c.cause == nil && at != "" || c.cause != nil && c.cause.MatchString(line) {
			return c.hint(at)
		}
	}
	return ""
}

// has reports whether a path lies in what the service has already: a directory of its own, or a mount, whose mode and owner
// are somebody else's affair.
func (s *shared) has(at string) bool {
	mounts := slices.Concat(s.spec.Sandbox.ReadOnly, s.spec.Sandbox.Writable)
	for _, d := range s.spec.Directories {
		if own := process.DirectoryPath(d); own != "" {
			mounts = append(mounts, spec.Mount{Inside: own})
		}
	}
	return slices.ContainsFunc(mounts, func(m spec.Mount) bool { return at == m.Inside || strings.HasPrefix(at, m.Inside+"/") })
}

// others are the words of a program that looks for another one's socket: the filter's answer to that is told of the next run.
var others = regexp.MustCompile(`(?i)connect|\bbind|\blisten|socket|\.sock\b`)

// shown are folders of which the program sees the host's, or what is its own: what is not there is not there for a reason
// that nobody sees from here.
var shown = regexp.MustCompile(`^/(usr|etc|bin|sbin|lib[^/]*|proc|dev)(/|$)`)

// hintAtMissing is about what the program opens, or makes a file in, and is not there.
func hintAtMissing(at string) string {
	if shown.MatchString(at) {
		return ""
	}
	if own := ownKeyFor(at); own != "" {
		return fmt.Sprintf("%s is not there inside: write %s if it is the only one who keeps things there: the host's folder is its own then", at, own)
	}
	if at == "/sys" || strings.HasPrefix(at, "/sys/") {
		at = "/sys"
	}
	return fmt.Sprintf("%s is not there inside: write read_only = [%q] below [sandbox] if it is the host's", at, at)
}

func hintAtReadOnly(at string) string {
	if folder := path.Dir(at); !shown.MatchString(at) && folder != "/" && !strings.HasPrefix(at, "/sys/") {
		return fmt.Sprintf("%s is read-only inside: write writable = [%q] below [sandbox]", at, folder)
	}
	return fmt.Sprintf("%s is read-only inside: have the program write to a directory of its own, by state_directory = \"NAME\" below [service], or to /run, /tmp or /var", at)
}

func hintAtDenied(at string) string {
	switch own := ownKeyFor(at); {
	case strings.HasPrefix(at, "/proc/"), strings.HasPrefix(at, "/dev/"):
		return ""
	case own != "":
		return fmt.Sprintf("its user has no right to %s: write %s if it is the only one who keeps things there: the host's folder is its own then", at, own)
	}
	return fmt.Sprintf("its user has no right to %s: give it that on the host, or the user who has it by user = \"NAME\" below [service]", at)
}

// ownKeyFor is the line for a path where programs keep what is their own; "": it is none.
func ownKeyFor(at string) string {
	if rest, ok := strings.CutPrefix(at, "/var/run/"); ok {
		at = "/run/" + rest
	}
	for _, own := range [][2]string{{"/var/lib/", "state_directory"}, {"/var/cache/", "cache_directory"}, {"/var/log/", "logs_directory"}, {"/run/", "runtime_directory"}} {
		if rest, ok := strings.CutPrefix(at, own[0]); ok {
			if name, _, _ := strings.Cut(rest, "/"); !strings.Contains(name, ".") { // else it is a file
				return fmt.Sprintf("%s = %q below [service]", own[1], name)
			}
		}
	}
	return ""
}
