package test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The rules of the house, each with its reason.

// arrows are the imports of our own packages that a package may have. They
// point down only, so that no descriptor can have two owners.
var arrows = map[string][]string{
	"internal/kernel/budget":   {},
	"internal/kernel/cgroup":   {"internal/kernel/fd", "internal/kernel/proc", "internal/spec"},
	"internal/kernel/fd":       {},
	"internal/spec":            {},
	"internal/advice":          {"internal/spec"},
	"internal/listen":          {"internal/kernel/access", "internal/kernel/fd", "internal/kernel/proc", "internal/kernel/sockdiag", "internal/kernel/sockopt", "internal/epoll", "internal/seal/udprelay", "internal/spec"},
	"internal/fdpass":          {"internal/kernel/fd"},
	"internal/netns":           {"internal/kernel/behalf", "internal/kernel/budget", "internal/kernel/fd", "internal/kernel/sockaddr", "internal/kernel/sockdiag", "internal/process/vfork", "internal/spec"},
	"internal/process/vfork":   {},
	"internal/usernotif":       {"internal/kernel/behalf", "internal/kernel/fd", "internal/kernel/proc", "internal/kernel/sockopt", "internal/spec"},
	"internal/notify":          {"internal/fdpass", "internal/kernel/fd"},
	"internal/fdstore":         {"internal/kernel/budget", "internal/kernel/fd"},
	"internal/sandbox":         {"internal/kernel/access", "internal/kernel/fd", "internal/kernel/proc", "internal/sandbox/seccomp", "internal/process/vfork", "internal/spec"},
	"internal/output":          {"internal/kernel/access", "internal/kernel/fd", "internal/kernel/proc"},
	"internal/tcpproxy":        {"internal/epoll", "internal/kernel/budget", "internal/kernel/fd", "internal/kernel/sockaddr"},
	"internal/epoll":           {"internal/kernel/fd"},
	"internal/seal/udprelay":   {"internal/epoll", "internal/kernel/behalf", "internal/kernel/budget", "internal/kernel/fd", "internal/kernel/sockaddr", "internal/netns", "internal/spec"},
	"internal/seal/sockfilter": {"internal/kernel/cgroup", "internal/kernel/fd", "internal/kernel/sockopt", "internal/netns", "internal/spec"},
	"internal/container":       {"internal/kernel/access", "internal/kernel/fd", "internal/sandbox", "internal/spec"},
	"internal/ktest":           {},
	"internal/config":          {"internal/spec"},
	"internal/process":         {"internal/fdpass", "internal/kernel/access", "internal/kernel/fd", "internal/kernel/proc", "internal/epoll", "internal/sandbox", "internal/process/vfork", "internal/process/guard", "internal/process/program", "internal/process/reaper", "internal/spec"},
	"internal/handover":        {"internal/usernotif", "internal/listen", "internal/netns", "internal/tcpproxy", "internal/epoll", "internal/seal/udprelay", "internal/process", "internal/spec"},
	"internal/service":         {"internal/advice", "internal/fdstore", "internal/handover", "internal/kernel/budget", "internal/kernel/cgroup", "internal/listen", "internal/notify", "internal/output", "internal/epoll", "internal/process", "internal/spec"},

	"internal/kernel/behalf": {"internal/kernel/fd", "internal/kernel/proc", "internal/process/vfork"},

	"internal/daemon": {"internal/advice", "internal/config", "internal/container", "internal/kernel/budget", "internal/kernel/cgroup", "internal/kernel/fd", "internal/listen", "internal/output", "internal/sandbox", "internal/seal", "internal/process", "internal/spec", "internal/service"},
	"internal/seal":   {"internal/kernel/sockopt", "internal/listen", "internal/netns", "internal/seal/udprelay", "internal/seal/sockfilter", "internal/sandbox", "internal/spec"},
	"internal/doctor": {"internal/kernel/proc", "internal/listen", "internal/seal/sockfilter", "internal/sandbox", "internal/process", "internal/spec"},
	"cmd/activator":   {"internal/daemon", "internal/doctor", "internal/kernel/budget", "internal/process"},
	"cmd/echo":        {"internal/fdpass", "internal/kernel/fd", "internal/notify"},

	"internal/kernel/access": {},
	"internal/kernel/proc":   {},

	"internal/process/guard":   {"internal/fdpass", "internal/kernel/fd", "internal/epoll", "internal/sandbox"},
	"internal/process/program": {"internal/kernel/fd", "internal/sandbox"},
	"internal/process/reaper":  {"internal/kernel/fd", "internal/kernel/proc"},
	"internal/sandbox/seccomp": {"internal/kernel/sockopt", "internal/spec"},

	"internal/kernel/sockaddr": {},
	"internal/kernel/sockdiag": {"internal/kernel/fd"},
	"internal/kernel/sockopt":  {"internal/spec"},
}

// leaves may make system calls themselves.
var leaves = []string{"internal/kernel/budget", "internal/kernel/cgroup", "internal/kernel/fd", "internal/kernel/sockaddr", "internal/kernel/sockdiag", "internal/kernel/sockopt", "internal/listen", "internal/fdpass", "internal/fdstore", "internal/notify", "internal/sandbox", "internal/sandbox/seccomp", "internal/process", "internal/process/guard", "internal/process/program", "internal/process/reaper",
	"internal/output", "internal/container", "internal/doctor", "internal/ktest", "internal/seal/udprelay", "internal/seal/sockfilter",
	"internal/tcpproxy", "internal/netns", "internal/usernotif", "internal/epoll", "internal/process/vfork", "internal/kernel/access", "internal/kernel/behalf", "internal/kernel/proc", "cmd/echo"}

// forbidden calls, by the selector as it is written.
var forbidden = []struct {
	call   *regexp.Regexp
	except []string
	reason string
}{
	{regexp.MustCompile(`^net\.(Listen|FileListener|FilePacketConn)`), []string{"internal/ktest"},
		"net.Listen makes MPTCP sockets and a listener that cannot be watched: sockets are made by unix.Socket in package listen"},
	{regexp.MustCompile(`^exec\.Command`), []string{"internal/container", "internal/ktest"},
		"os/exec dies with the wrong thread and waits for pipes: package process starts processes (container asks podman a question before anything runs)"},
	{regexp.MustCompile(`^(os\.StartProcess|syscall\.(ForkExec|StartProcess))$`), []string{"internal/process"},
		"package process starts processes"},
	{regexp.MustCompile(`\.Fd$`), nil,
		"Fd clears O_NONBLOCK of the description that others share: use fd.Control"},
	{regexp.MustCompile(`\.SyscallConn$`), []string{"internal/kernel/fd", "internal/seal/udprelay"},
		"fd.Control, fd.Read and fd.Write lend a descriptor (relay waits for each datagram, and allocates nothing for that)"},
	{regexp.MustCompile(`^unix\.(Openat2|Ppoll|Poll|Wait4)$`), []string{"internal/kernel/fd", "internal/ktest"},
		"package kernel/fd opens below a folder, polls and reaps: it follows no link that it may not, and knows that a signal may come in between"},
	{regexp.MustCompile(`^unix\.(Parse)?UnixRights$`), []string{"internal/fdpass"},
		"package fdpass passes descriptors: what comes and is not wanted is closed there"},
	{regexp.MustCompile(`^time\.(Sleep|Tick|NewTicker)$`), []string{"internal/ktest"},
		"nobody wakes up without a reason, and time is an event"},
	{regexp.MustCompile(`^unix\.|^syscall\.(Raw)?Syscall`), leaves,
		"system calls are made in the leaf packages, through a wrapper that names them"},
}

// source is one Go file of the module, as a path from its root.
type source struct {
	path, dir string
	set       *token.FileSet
	file      *ast.File
}

// test: the rules are for what we ship, not for what tests it.
func (s source) test() bool {
	return strings.HasSuffix(s.path, "_test.go") || s.dir == "test" || strings.HasPrefix(s.dir, "test/")
}

func (s source) line(p token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.set.Position(p).Line)
}

func sources(t *testing.T) []source {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parsed is done once: no test changes what was parsed.
var parsed = sync.OnceValues(func() (all []source, err error) {
	for _, top := range []string{"cmd", "internal", "test"} {
		err = errors.Join(err, filepath.WalkDir(filepath.Join("..", top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			s := source{set: token.NewFileSet()}
			if s.path, err = filepath.Rel("..", path); err != nil {
				return err
			}
			s.dir = filepath.Dir(s.path)
			s.file, err = parser.ParseFile(s.set, path, nil, parser.ParseComments)
			all = append(all, s)
			return err
		}))
	}
	return all, err
})

func TestHouseImportsPointDown(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		allowed, known := arrows[s.dir]
		if !known {
			t.Errorf("%s: package %s is not in the drawing: add it there and to arrows, with what it may import", s.path, s.dir)
			continue
		}
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			ours, ok := strings.CutPrefix(path, "activator/")
			if ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s: %s may not import %s: arrows point down only", s.line(i.Pos()), s.dir, ours)
			}
			used[s.dir+" -> "+ours] = true
		}
	}
	for from, allowed := range arrows {
		for _, to := range allowed {
			if !used[from+" -> "+to] {
				t.Errorf("nobody uses %s -> %s: take the arrow away", from, to)
			}
		}
	}
}

func TestHouseForbiddenCalls(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			written := "." + selector.Sel.Name
			if of, ok := selector.X.(*ast.Ident); ok {
				written = of.Name + written
			}
			for _, f := range forbidden {
				if f.call.MatchString(written) && !slices.Contains(f.except, s.dir) {
					t.Errorf("%s: %s: %s", s.line(call.Pos()), written, f.reason)
				}
			}
			return true
		})
	}
}

// optionSetters set options of sockets outside of the table of kernel/sockopt, and why they may.
var optionSetters = map[string]string{
	"internal/kernel/sockopt": "it has the table",
	"internal/netns":          "what it makes is ours, in a program's network",
	"internal/tcpproxy":       "what it carries is ours; of a listener it borrows two options, and gives them back",
	"internal/seal/udprelay":  "flows are ours; of the host's socket it borrows what it is told with a datagram, and gives that back",
	"internal/notify":         "who has sent a message is asked of the kernel",
	"internal/process":        "the same",
	"cmd/echo":                "it is a program of its own",
}

// What is set on a socket that services share is one row of a table: how it is set, carried and
// restored, and whether a sealed service may set it.
func TestHouseCallsSetOptions(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			name := selector.Sel.Name
			if of, ok := selector.X.(*ast.Ident); ok && of.Name == "unix" && (strings.HasPrefix(name, "Setsockopt") || name == "SYS_SETSOCKOPT" || name == "BindToDevice") {
				if used[s.dir] = true; optionSetters[s.dir] == "" {
					t.Errorf("%s: unix.%s: a socket option is a row of the table in internal/kernel/sockopt", s.line(n.Pos()), name)
				}
			}
			return true
		})
	}
	for dir := range optionSetters {
		if !used[dir] {
			t.Errorf("%s sets no option", dir)
		}
	}
}

func TestHouseNames(t *testing.T) {
	for _, s := range sources(t) {
		switch s.file.Name.Name {
		case "util", "utils", "common", "types", "helpers", "misc":
			t.Errorf("%s: a package is named after what it owns, not %q", s.path, s.file.Name.Name)
		}
	}
}

func TestHouseSizes(t *testing.T) {
	const longestFile, longestFunction = 500, 50
	for _, s := range sources(t) {
		if lines := s.set.File(s.file.Pos()).LineCount(); lines > longestFile {
			t.Errorf("%s has %d lines, more than %d: split it by what owns what", s.path, lines, longestFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			lines := s.set.Position(f.Body.Rbrace).Line - s.set.Position(f.Body.Lbrace).Line - 1
			if lines > longestFunction && !flat(s, f, lines) {
				t.Errorf("%s: %s has %d lines, more than %d", s.line(f.Pos()), f.Name.Name, lines, longestFunction)
			}
		}
	}
}

// flat reports whether a function is long only for its tables (composite
// literals) and switches: the rest would fit.
func flat(s source, f *ast.FuncDecl, lines int) bool {
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.CompositeLit, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
			lines -= s.set.Position(n.End()).Line - s.set.Position(n.Pos()).Line
			return false
		}
		return true
	})
	return lines <= 50
}

// A dependency is a version, and one that stays what it is.
func TestHouseDependencies(t *testing.T) {
	text, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "replace") || strings.Contains(line, "latest") {
			t.Errorf("go.mod:%d: %s: a version stays what it is", i+1, line)
		}
	}
	floating := regexp.MustCompile(`@(latest|main|master|upgrade|HEAD)\b`)
	for _, path := range []string{"../Makefile", "../test/run.sh", "../.ci/run"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if found := floating.Find(text); found != nil {
			t.Errorf("%s: %s: pin the version", path, found)
		}
	}
}

// What is said in English stays true in Go: every package says what it is for.
func TestHousePackageComments(t *testing.T) {
	said := map[string]bool{}
	for _, s := range sources(t) {
		said[s.dir] = said[s.dir] || s.file.Doc != nil && len(s.file.Doc.Text()) > 0
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s: no package comment: say its job in one sentence", dir)
		}
	}
}
