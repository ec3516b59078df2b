package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"activator/internal/config"
	"activator/internal/container"
	"activator/internal/kernel/fd"
	"activator/internal/listen"
	"activator/internal/output"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/seal"
	"activator/internal/spec"
)

// examination looks at the host before anything is opened, and finds what in a configuration
// cannot work there. It is the same for the start, for a reload and for `activator check`. It
// makes nothing but a sandbox in which nothing runs.
type examination struct {
	starter *process.Starter
	can     seal.Abilities
	ours    func(path string) bool // a socket of ours made the path

	programs process.Examiner
	sockets  func() map[string]bool // paths of sockets, with their links and reserves: few services print to a file
	tried    map[string]bool        // sandboxes
	found    config.Errors
}

func newExamination(starter *process.Starter, can seal.Abilities, ours func(string) bool) *examination {
	return &examination{starter: starter, can: can, ours: ours, tried: make(map[string]bool)}
}

// planServices examines the configurations in sources, and finds everything that is wrong with
// them here. all are those of every service: the rules about folders need them.
func (x *examination) planServices(ctx context.Context, sources, all []config.Source) ([]planned, error) {
	plans := make([]planned, 0, len(sources))
	for _, source := range sources {
		process.ClaimDirectories(source.Service.Process) // of a container too
	}
	x.programs.Later = listLaterPaths(all)
	x.sockets = sync.OnceValue(func() map[string]bool { return listSocketPaths(all) })
	x.checkDescriptors(all)
	x.found = append(x.found, config.CheckPaths(all, entryResolver())...)
	for _, source := range sources {
		plans = append(plans, x.planService(ctx, source))
	}
	x.checkFolders(all)
	if err := x.found.OrNil(); err != nil {
		return nil, err
	}
	return plans, nil
}

// What needs descriptors, at the most: the activator with one start, and each socket. A relay has
// sockets of its own; what carries clients to a program has a client's and its own.
const (
	descriptorsOfStart   = 60
	descriptorsOfRelay   = 4
	descriptorsOfCarrier = 12
)

// checkDescriptors finds a limit under which the sockets cannot be opened, or no client of theirs be
// answered.
func (x *examination) checkDescriptors(all []config.Source) {
	count, carriers, mounts := descriptorsOfStart, 0, 0
	for _, source := range all {
		for _, socket := range source.Service.Sockets {
			switch a := socket.Address; {
			case a.Network == spec.UnixGram, a.IsUDP() && !x.can.Answering():
				count += descriptorsOfRelay
			case a.IsUDP(), a.IsUnix(), a.IsTCP(): // TCP's with its placeholder
				count += 2
			default:
				count++
			}
		}
		conf := source.Service
		mounts = max(mounts, len(conf.Sandbox.ReadOnly)+len(conf.Sandbox.Writable)+len(conf.Sandbox.Tmpfs)+len(conf.Directories))
		if !source.Service.Inherits() || source.Service.Accept {
			carriers = descriptorsOfCarrier
		}
	}
	if err := sandbox.ExamineDescriptors(count + carriers + mounts); err != nil {
		x.addHostError("socket", err)
	}
}

// addHostError notes an error that only the host can cure and that is about no file.
func (x *examination) addHostError(key string, err error) {
	var refused *process.StepError
	if !errors.As(err, &refused) || refused.Passing() && key == "sandbox" {
		return
	}
	text, cure := describeStep(refused)
	if refused.Step != key {
		text = refused.Step + ": " + text
	}
	known := func(e *config.Error) bool { return e.Key == key && e.Text == text }
	if !slices.ContainsFunc(x.found, known) {
		x.found = append(x.found, &config.Error{Key: key, Text: text, Cure: cure, Host: true})
	}
}

// listLaterPaths returns the paths that opening the sockets makes, with true for folders, and the
// folders that services have as their own. A service that mounts one of them finds it when it
// starts, or may find it.
func listLaterPaths(all []config.Source) map[string]bool {
	paths := make(map[string]bool)
	for _, source := range all {
		for _, socket := range source.Service.Sockets {
			for _, path := range socketPaths(socket) {
				paths[path] = false
				for folder := filepath.Dir(path); folder != "/" && !paths[folder]; folder = filepath.Dir(folder) {
					paths[folder] = true
				}
			}
		}
		for _, d := range source.Service.Directories {
			if path := process.DirectoryPath(d); path != "" {
				paths[path] = true
			}
		}
	}
	return paths
}

// listSocketPaths returns the paths that sockets have, or will have, with and without links.
func listSocketPaths(all []config.Source) map[string]bool {
	paths := make(map[string]bool)
	for _, source := range all {
		for _, socket := range source.Service.Sockets {
			node := socket.Address.Node()
			if node == "" || socket.Address.Network == spec.FIFO {
				continue
			}
			for _, path := range append(socketPaths(socket), spec.ReservePath(node)) {
				paths[path], paths[fd.ResolvePath(path)] = true, true
			}
		}
	}
	return paths
}

// entryResolver returns what takes the links of its folder out of a path. It walks to each folder once.
func entryResolver() func(path string) string {
	folders := make(map[string]string)
	return func(path string) string {
		dir := filepath.Dir(path)
		if _, done := folders[dir]; !done {
			folders[dir] = fd.ResolvePath(dir)
		}
		return filepath.Join(folders[dir], filepath.Base(path))
	}
}

// socketPaths returns the paths that a socket has.
func socketPaths(socket spec.Socket) []string {
	if node := socket.Address.Node(); node != "" {
		return append([]string{node}, socket.Options.Symlinks...)
	}
	return nil
}

// addError notes what is wrong with a place of the file.
func (x *examination) addError(source config.Source, p config.Place, text, cure string) *config.Error {
	e := source.Error(p, text, cure)
	x.found = append(x.found, e)
	return e
}

func (x *examination) planService(ctx context.Context, source config.Source) planned {
	p := planned{source: source, spec: source.Service}
	p.open = seal.Decide(&p.spec, x.can)
	p.open.Lesser = append(p.open.Lesser, listLesser(source.Service)...)
	if len(p.open.Lacks) > 0 && p.spec.Seal == "required" {
		x.addError(source, config.Place{Key: "sandbox.seal"}, strings.Join(p.open.Lacks, "; "), `write seal = "best-effort" below [sandbox] to leave that open`)
	}
	x.checkIdle(p)
	x.checkSockets(p)
	x.checkStreams(source)
	x.checkHandedOver(source)
	x.checkArguments(source)
	if p.spec.Container != nil {
		p.spec.Process, p.engine = x.planContainer(ctx, p)
		return p
	}
	x.trySandbox(ctx, p.spec.Sandbox)
	for _, refused := range x.programs.Examine(p.spec.Process) {
		x.addStepError(source, refused)
	}
	x.checkTargets(source)
	return p
}

// checkTargets finds targets at which the program of a proxied service cannot listen.
func (x *examination) checkTargets(source config.Source) {
	conf := source.Service
	for i, socket := range conf.Sockets {
		path := socket.Target.Node()
		if path == "" || conf.Handover != spec.Proxy || len(conf.Argv) == 0 {
			continue
		}
		if refused := x.programs.ExamineNode(conf.Process, path); refused != nil {
			text, cure := describeStep(refused)
			x.addError(source, config.Place{Key: "socket.target", Socket: i}, text, cure)
		}
	}
}

// checkIdle finds sockets that do not show whether they are in use, of a service that is to be
// stopped when they are not.
func (x *examination) checkIdle(p planned) {
	for _, socket := range p.spec.Sockets {
		if p.spec.IdleTimeout == 0 || p.spec.Handover == spec.Proxy && socket.Address.IsUDP() {
			continue // the relay counts
		}
		if err := listen.CheckActivity(socket); err != nil {
			x.addError(p.source, config.Place{Key: "service.idle_timeout"}, err.Error(), "leave idle_timeout away, or have the service end by itself")
		}
	}
}

func (x *examination) checkSockets(p planned) {
	for i, socket := range p.spec.Sockets {
		for _, bad := range listen.ExamineSocket(socket, x.ours) {
			x.found = append(x.found, socketError(p.source, i, bad))
		}
	}
}

// checkHandedOver finds a limit that is below the numbers of the descriptors of a program.
func (x *examination) checkHandedOver(source config.Source) {
	conf := source.Service
	count := uint64(3 + len(conf.FDNames))
	i := slices.IndexFunc(conf.Limits, func(l spec.Limit) bool { return l.Resource == "nofile" && l.Soft < count })
	if i >= 0 && conf.Handover == spec.FDs && conf.Container == nil {
		text := fmt.Sprintf("nofile: %d is less than the %d descriptors that the program starts with: 3 and its sockets", conf.Limits[i].Soft, count)
		x.addError(source, config.Place{Key: "service.limits", Name: "nofile"}, text, fmt.Sprintf("write at least %d: it will open files of its own too", count+16))
	}
}

// outputFiles are the files that a service prints to, by their keys.
func outputFiles(source config.Source) iter.Seq2[string, string] {
	return func(yield func(key, path string) bool) {
		for _, stream := range [][2]string{{"service.stdout", source.Service.Stdout}, {"service.stderr", source.Service.Stderr}} {
			if filepath.IsAbs(stream[1]) && !yield(stream[0], stream[1]) {
				return
			}
		}
	}
}

// checkStreams looks at the files that a service prints to.
func (x *examination) checkStreams(source config.Source) {
	for key, to := range outputFiles(source) {
		if x.sockets()[to] || x.sockets()[fd.ResolvePath(to)] {
			x.addError(source, config.Place{Key: key}, to+": a socket stands there, by [[socket]]", "print to another path")
			continue
		}
		if err := output.ExamineFile(to); err != nil && !(errors.Is(err, fs.ErrNotExist) && x.programs.Later[filepath.Dir(to)]) {
			text, cure := splitCure(err, strings.TrimPrefix(err.Error(), "open "))
			if cure == "" {
				cure = "its folder must exist, and the file be one that we may write"
			}
			x.addError(source, config.Place{Key: key}, text, cure)
		}
	}
}

// planContainer returns the engine's process, and notes what the engine lacks.
func (x *examination) planContainer(ctx context.Context, p planned) (spec.Process, *container.Engine) {
	for _, mounts := range [][]spec.Mount{p.spec.Sandbox.ReadOnly, p.spec.Sandbox.Writable} {
		for _, m := range mounts {
			if err := sandbox.ExamineSource(m.Host, x.programs.Later); err != nil {
				x.addStepError(p.source, err)
			}
		}
	}
	process, engine, err := containerProcess(ctx, p.spec)
	if err == nil {
		return process, engine
	}
	text := strings.TrimPrefix(err.Error(), "container: ")
	var wrong *container.KeyError
	if errors.As(err, &wrong) {
		x.addError(p.source, config.Place{Key: wrong.Key, Item: wrong.Item}, wrong.Text, wrong.Cure)
		return p.spec.Process, nil
	}
	x.addError(p.source, config.Place{Key: "container.engine"}, text, "").Host = true
	return p.spec.Process, nil
}

// trialTimeout bounds a sandbox that is tried.
const trialTimeout = 10 * time.Second

// trySandbox builds a sandbox of this kind, once, and takes it down again. Only a trial shows
// what the kernel, a container around us or AppArmor refuse. A refusal that may pass is no error:
// the start may work when the first client comes.
func (x *examination) trySandbox(ctx context.Context, kind spec.Sandbox) {
	kind.Root, kind.ReadOnly, kind.Writable, kind.Tmpfs, kind.Capabilities, kind.Users, kind.Groups = "", nil, nil, nil, nil, nil, nil
	if sandbox.NetworkPath(kind.Network) != "" {
		kind.Network = "host"
	}
	key := fmt.Sprintf("%+v", kind)
	if x.tried[key] {
		return
	}
	x.tried[key] = true
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	p, err := x.starter.Prepare(ctx, spec.Process{Name: "trial", Argv: []string{"trial"}, Sandbox: kind}, process.Inputs{})
	if err == nil {
		_ = p.Close()
		return
	}
	x.addHostError("sandbox", err)
}
