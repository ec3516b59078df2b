package listen

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// ExamineSocket says what would certainly keep spec from being opened on this host, in the
// words of [OpenAll]. It makes and binds nothing, and does not ask whether another process has the
// port: that may be an activator that makes way. ours reports whether the caller has made
// what stands at a path; nil: nothing.
func ExamineSocket(want spec.Socket, ours func(path string) bool) []*Error {
	e := examination{address: want.Address, options: &want.Options}
	want.Seal = spec.Unsealed
	if want.Address.Node() != "" {
		e.checkOwner()
		e.checkNode(ours)
		e.checkLinks(ours)
	}
	if want.Address.Network == spec.FIFO {
		e.pipeSize()
		return e.found
	}
	file, family, err := newSocket(want, &pool{})
	e.addError("", err, "")
	if err == nil {
		e.checkAddress(file, family)
		e.checkPort()
		_ = file.Close()
	}
	return e.found
}

// examination is what has been found of one socket.
type examination struct {
	address spec.Address
	options *spec.Options
	found   []*Error
}

func (e *examination) addError(step string, err error, cure string) {
	var one *Error
	var occupied *OccupiedError
	if cure == "" && errors.As(err, &occupied) && !occupied.Live {
		cure = "move it away, or give the socket another path"
	}
	if errors.As(wrapError(e.address, step, err, cure), &one) {
		e.found = append(e.found, one)
	}
}

// checkOwner looks for the owner that the node shall have, and whether we may give it away.
func (e *examination) checkOwner() {
	uid, gid := *e.options, *e.options
	uid.SocketGroup, gid.SocketUser = "", ""
	user, err := lookupOwner(&uid)
	e.addError("socket_user", errors.Unwrap(err), "create it, or give a number")
	group, err := lookupOwner(&gid)
	e.addError("socket_group", errors.Unwrap(err), "create it, or give a number")
	if access.HoldsCapability(unix.CAP_CHOWN) {
		return
	}
	own, _ := os.Getgroups()
	refused := &fs.PathError{Op: "chown", Path: e.address.Node(), Err: unix.EPERM}
	if user.uid >= 0 && user.uid != os.Geteuid() {
		e.addError("socket_user", refused, ownerCure(refused))
	}
	if group.gid >= 0 && group.gid != os.Getegid() && !slices.Contains(own, group.gid) {
		e.addError("socket_group", refused, ownerCure(refused))
	}
}

// checkNode looks at the folder of the path, and at what stands there.
func (e *examination) checkNode(ours func(string) bool) {
	path := e.address.Node()
	if ours != nil && ours(path) {
		return
	}
	at, there, st := e.openPlace("", path)
	if at == nil {
		return
	}
	defer at.Close()
	if there && e.address.Network == spec.FIFO {
		e.checkFIFO(at, &st)
		return
	}
	if errno := access.CheckMakeIn(filepath.Dir(path)); errno != 0 {
		e.addError("", &fs.PathError{Op: "make", Path: path, Err: errno}, folderCure(errno))
		return
	}
	if !there {
		return
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		e.addError("", &OccupiedError{Path: path, What: at.describeFile(at.Name, &st)}, "")
		return
	}
	if at.hasInode(at.reserveName(), inode{st.Dev, st.Ino}) {
		return // an activator's
	}
	node, err := at.Open(unix.O_PATH, 0)
	if err != nil {
		return
	}
	defer unix.Close(node)
	if live, err := probeNode(node); err == nil && live {
		e.addError("", &OccupiedError{Path: path, What: at.describeLive(at.Name), Live: true}, "")
	}
}

// openPlace opens the folder of a path, and tells what stands there. Where the folder is not there, or
// another user has put a link on the way to it, that is reported and there is no place.
func (e *examination) openPlace(step, path string) (at *place, there bool, st unix.Stat_t) {
	found, err := openPlace(path)
	var link *fd.LinkError
	switch {
	case errors.As(err, &link):
		e.addError(step, err, "")
		return nil, false, st
	case err != nil:
		if errno := access.CheckMakeIn(filepath.Dir(path)); errno != 0 {
			e.addError(step, &fs.PathError{Op: "make", Path: path, Err: errno}, folderCure(errno))
		}
		return nil, false, st
	}
	st, err = found.Stat(found.Name)
	return &found, err == nil, st
}

// folderCure is what helps where a folder lets us make nothing.
func folderCure(errno error) string {
	if errno == unix.EPERM { //nolint:errorlint // it is one
		return "only the kernel makes files there: choose another folder"
	}
	return "its folder must be one in which we may make files"
}

func (e *examination) checkFIFO(at *place, st *unix.Stat_t) {
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		e.addError("", &OccupiedError{Path: at.path, What: at.describeFile(at.Name, st)}, "")
		return
	}
	who, err := lookupOwner(e.options)
	if err == nil && !at.isLeft(inode{st.Dev, st.Ino}) {
		e.addError("", checkFIFO(at.path, st, nodeMode(e.options), who), "")
	}
}

// pipeSize holds what is asked for against the kernel's limit, pipe(7).
func (e *examination) pipeSize() {
	most, err := strconv.Atoi(proc.ReadSysctl("fs.pipe-max-size"))
	if err == nil && e.options.PipeSize > most && !access.HoldsCapability(unix.CAP_SYS_RESOURCE) {
		e.addError("pipe_size", unix.EPERM, curePipeSize)
	}
}

// checkLinks looks at what stands where symlinks shall.
func (e *examination) checkLinks(ours func(string) bool) {
	for _, link := range e.options.Symlinks {
		if ours != nil && ours(link) {
			continue
		}
		if at, there, st := e.openPlace("symlinks", link); at != nil {
			e.checkLink(at, there, &st)
			at.Close()
		}
	}
}

func (e *examination) checkLink(at *place, there bool, st *unix.Stat_t) {
	target, err := at.ReadLink(at.Name)
	if there && err == nil && target == e.address.Node() {
		return
	}
	if errno := access.CheckMakeIn(filepath.Dir(at.path)); errno != 0 {
		e.addError("symlinks", &fs.PathError{Op: "symlink", Path: at.path, Err: errno}, folderCure(errno))
		return
	}
	if there && (err != nil || at.linkLeads(at.Name)) {
		e.addError("symlinks", &OccupiedError{Path: at.path, What: at.describeFile(at.Name, st)}, "")
	}
}

// checkAddress finds an address that this machine does not have, by binding it without a port:
// that takes nothing from anybody.
func (e *examination) checkAddress(file *os.File, family int) {
	a := e.address
	switch {
	case a.IsInternet() && a.IP.IsValid():
		a.Port = 0
	case a.Network == spec.VSock && a.CID != spec.CIDAny:
		a.Port = unix.VMADDR_PORT_ANY
	default:
		return
	}
	e.addError("", control(file, func(fd int) error {
		if a.IsInternet() && sockopt.AddressOnly(fd) != nil {
			return nil
		}
		sa, err := makeSockaddr(fd, family, a)
		if err == nil {
			err = os.NewSyscallError("bind", unix.Bind(fd, sa))
		}
		return wrapError(e.address, "", err, bindCure(e.address, e.options, err))
	}), "")
}

// checkPort looks whether we may have a port that is not everybody's, ip(7) and vsock(7).
func (e *examination) checkPort() {
	a := e.address
	if a.Port == 0 || access.HoldsCapability(unix.CAP_NET_BIND_SERVICE) {
		return
	}
	first := 1024
	if a.IsInternet() {
		if n, err := strconv.Atoi(unprivilegedPort()); err == nil {
			first = n
		}
	} else if a.Network != spec.VSock {
		return
	}
	if int64(a.Port) < int64(first) {
		err := os.NewSyscallError("bind", unix.EACCES)
		e.addError("", err, bindCure(a, e.options, err))
	}
}

// Key is the key of the configuration that the error is about, "listen" where it is
// the address itself.
func (e *Error) Key() string {
	switch e.Step {
	case "socket_user", "socket_group", "symlinks", "pipe_size":
		return e.Step
	}
	if e.Step != "" && slices.ContainsFunc(sockopt.Table, func(o sockopt.Option) bool { return o.Key != nil && o.Key.Name == e.Step }) {
		return e.Step
	}
	return "listen"
}

// Occupied reports whether nothing but a live socket at the path is in the way.
func (e *Error) Occupied() bool {
	var occupied *OccupiedError
	return errors.As(e.Err, &occupied) && occupied.Live
}
