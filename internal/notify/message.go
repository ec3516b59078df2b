package notify

import (
	"bytes"
	"cmp"
	"math"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"activator/internal/fdpass"
)

// maxMessage is the longest message in bytes that is read, systemd's limit
// (PIPE_BUF). A longer one is ignored whole.
const maxMessage = 4096

// maxStatus is how many bytes of a STATUS are kept.
const maxStatus = 512

// BadMessage says which parts of a message were ignored and why. The rest of
// it holds.
type BadMessage struct {
	Problems []string
}

func (e *BadMessage) Error() string {
	return "notify message: " + strings.Join(e.Problems, "; ")
}

// Message is what one datagram said. Where an assignment is repeated the first
// one counts, as in systemd.
type Message struct {
	Ready         bool
	Stopping      bool
	Reloading     bool
	Barrier       bool // answered already, by closing the descriptor that came with it
	HasStatus     bool
	Status        string        // one printable line, at most maxStatus bytes; may be empty
	ExtendTimeout time.Duration // from now; 0: none asked for
	MainPID       int           // as the sender sees it, in its own pid namespace; 0: none told
	Errno         syscall.Errno // 0: none told
	BusError      string        // one printable line, at most maxStatus bytes; "": none told
	ExitStatus    string        // "": none told

	Alive       bool          // it does what it should
	Trigger     bool          // it does not, and says so
	HasWatchdog bool          // it changes how often it will say so
	Watchdog    time.Duration // to this; 0: never

	Store   bool   // the descriptors that come with it are kept for the next instance
	Remove  bool   // those with the name are not kept any more
	FDName  string // "": none told
	KeepFDs bool   // they are not given up when their other end is gone, FDPOLL=0
}

// parseMessage reads a message of lines NAME=VALUE. Names it does not know are ignored. Values it
// does not understand are ignored too, and named in the *BadMessage that comes
// with the rest.
func parseMessage(data []byte) (Message, error) {
	var m Message
	data = bytes.TrimSuffix(data, []byte{0})
	switch {
	case len(data) > maxMessage:
		return m, &BadMessage{[]string{"ignored: more than " + strconv.Itoa(maxMessage) + " bytes"}}
	case bytes.IndexByte(data, 0) >= 0:
		return m, &BadMessage{[]string{"ignored: a zero byte inside"}}
	}
	var problems []string
	for line := range strings.SplitSeq(string(data), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if ok && !m.assignValue(name, value) {
			problems = append(problems, name+"="+printLine(value, 40)+" is not a value it can have")
		}
	}
	if problems != nil {
		return m, &BadMessage{problems}
	}
	return m, nil
}

// assignValue is false for a bad value of a known name.
func (m *Message) assignValue(name, value string) bool {
	switch name {
	case "READY":
		return assignOne(&m.Ready, value)
	case "STOPPING":
		return assignOne(&m.Stopping, value)
	case "RELOADING":
		return assignOne(&m.Reloading, value)
	case "BARRIER":
		return assignOne(&m.Barrier, value)
	case "STATUS":
		if !m.HasStatus {
			m.HasStatus, m.Status = true, printLine(value, maxStatus)
		}
	case "EXTEND_TIMEOUT_USEC":
		usec, ok := parsePositive(value)
		if ok && m.ExtendTimeout == 0 {
			m.ExtendTimeout = microseconds(usec)
		}
		return ok
	case "MAINPID":
		pid, ok := parsePositive(value)
		ok = ok && pid <= math.MaxInt32
		if ok && m.MainPID == 0 {
			m.MainPID = int(pid)
		}
		return ok
	case "WATCHDOG", "WATCHDOG_USEC":
		return m.assignWatchdog(name, value)
	case "ERRNO", "BUSERROR", "EXIT_STATUS":
		return m.assignError(name, value)
	case "FDSTORE":
		return assignOne(&m.Store, value)
	case "FDSTOREREMOVE":
		return assignOne(&m.Remove, value)
	case "FDPOLL":
		m.KeepFDs = m.KeepFDs || value == "0"
		return value == "0" || value == "1"
	case "FDNAME":
		if !fdpass.IsName(value) || value == "" {
			return false
		}
		m.FDName = cmp.Or(m.FDName, value)
	}
	return true
}

func (m *Message) assignWatchdog(name, value string) bool {
	if name == "WATCHDOG" {
		if value == "trigger" {
			m.Trigger = true
			return true
		}
		return assignOne(&m.Alive, value)
	}
	usec, ok := parsePositive(value)
	if ok = ok || value == "0"; ok && !m.HasWatchdog {
		m.HasWatchdog, m.Watchdog = true, microseconds(usec)
		if usec == math.MaxUint64 { // USEC_INFINITY
			m.Watchdog = 0
		}
	}
	return ok
}

// assignError takes in what went wrong, by the program's own word.
func (m *Message) assignError(name, value string) bool {
	switch name {
	case "BUSERROR":
		m.BusError = cmp.Or(m.BusError, printLine(value, maxStatus))
		return value != ""
	case "EXIT_STATUS":
		n, ok := parsePositive(value)
		if ok = ok && n <= maxExit || value == "0"; ok {
			m.ExitStatus = cmp.Or(m.ExitStatus, strconv.FormatUint(n, 10))
		}
		return ok
	}
	errno, ok := parsePositive(value)
	ok = ok && errno <= maxErrno
	if ok && m.Errno == 0 {
		m.Errno = syscall.Errno(errno)
	}
	return ok || value == "0"
}

// microseconds is a time of so many. A Duration holds 292 years; all ones mean for ever.
func microseconds(n uint64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/uint64(time.Microsecond))) * time.Microsecond
}

// maxExit is the highest status of exit(2).
const maxExit = 255

// maxErrno is MAX_ERRNO of the kernel.
const maxErrno = 4095

func assignOne(field *bool, value string) bool {
	if value == "1" {
		*field = true
		return true
	}
	return false
}

// parsePositive takes decimal digits only. What exceeds 64 bits is their most.
func parsePositive(value string) (uint64, bool) {
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		n = math.MaxUint64
	}
	return n, n > 0
}

// printLine makes one printable line of text from inside a sandbox, fit for a
// terminal: no control characters, valid UTF-8, at most most bytes.
func printLine(text string, most int) string {
	const dots = "..."
	line := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
	if len(line) <= most {
		return line
	}
	end := most - len(dots)
	for !utf8.RuneStart(line[end]) {
		end--
	}
	return line[:end] + dots
}
