package security

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/ktest"
)

// turn tries to reach the test's sockets in the host's network with what the
// service was given, and with sockets of its own. The test counts what arrives;
// what the calls say is nothing to go by. The listener is the last, it is spoilt.
func turn(victim net.Conn, sockets []fdpass.Inherited, ask request) {
	tcp, udp := address(ask.TCP), address(ask.UDP)
	onDescriptor(victim.(*net.TCPConn), func(fd int) {
		_ = ktest.Dissolve(fd)
		reach(fd, tcp, "an accepted connection")
	})
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
		reach(fd, tcp, "a socket of its own")
		unix.Close(fd)
	}
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		_ = unix.Sendto(fd, []byte("a datagram socket of its own"), unix.MSG_DONTWAIT, udp)
		unix.Close(fd)
	}
	onDescriptor(sockets[1].File, func(fd int) {
		_ = unix.Sendto(fd, []byte("the datagram socket"), unix.MSG_DONTWAIT, udp)
	})
	onDescriptor(sockets[0].File, func(fd int) {
		_ = ktest.Dissolve(fd)
		reach(fd, tcp, "the listener")
	})
	onDescriptor(sockets[0].File, func(fd int) {
		_ = ktest.Dissolve(fd)
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		_ = unix.Sendto(fd, []byte("the listener, by TCP fast open"), unix.MSG_FASTOPEN|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, tcp)
	})
}

func onDescriptor(c syscall.Conn, f func(fd int)) {
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		die(err)
	}
}

func address(text string) *unix.SockaddrInet4 {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		die(err)
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// reach connects fd and sends its own name.
func reach(fd int, to unix.Sockaddr, who string) {
	_ = unix.SetNonblock(fd, true)
	_ = unix.Connect(fd, to)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 100)
	_ = unix.Sendto(fd, []byte(who), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// setID makes files that run as another user, by every call that has a mode, and
// a device node.
func (s *seen) setID() {
	dir, err := os.MkdirTemp("/tmp", "setid")
	if err != nil {
		s.Mknod = err.Error()
		return
	}
	defer os.RemoveAll(dir)
	const mode = unix.S_ISUID | unix.S_ISGID | 0o755
	ways := map[string]func(path string) error{
		"open":   func(path string) error { _, err := create(path, mode); return err },
		"mknod":  func(path string) error { return unix.Mknod(path, unix.S_IFREG|mode, 0) },
		"mkdir":  func(path string) error { return unix.Mkdir(path, unix.S_ISGID|0o755) },
		"chmod":  func(path string) error { return changed(path, unix.Chmod) },
		"fchmod": func(path string) error { return changed(path, fchmod) },
		"fchmodat": func(path string) error {
			return changed(path, func(path string, mode uint32) error { return unix.Fchmodat(unix.AT_FDCWD, path, mode, 0) })
		},
		"fchmodat2": func(path string) error {
			return changed(path, func(path string, mode uint32) error {
				return unix.Fchmodat(unix.AT_FDCWD, path, mode, unix.AT_SYMLINK_NOFOLLOW)
			})
		},
		"openat2": func(path string) error {
			fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY | unix.O_CLOEXEC, Mode: mode})
			if err == nil {
				unix.Close(fd)
			}
			return err
		},
	}
	for way, f := range ways {
		path := filepath.Join(dir, way)
		_ = f(path)
		if info, err := os.Stat(path); err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			s.SetID = append(s.SetID, way)
		}
	}
	s.Mknod = name(unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
}

func create(path string, mode uint32) (string, error) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	if err == nil {
		unix.Close(fd)
	}
	return path, err
}

func changed(path string, change func(path string, mode uint32) error) error {
	if _, err := create(path, 0o755); err != nil {
		return err
	}
	return change(path, unix.S_ISUID|unix.S_ISGID|0o755)
}

func fchmod(path string, mode uint32) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode)
}

// program32 runs a program for the i386 whose only call is exit(7): from a file,
// or from memory where files in /tmp may not be run.
func program32() string {
	if runtime.GOARCH != "amd64" {
		return "not tried"
	}
	dir, err := os.MkdirTemp("/tmp", "program")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "exit")
	if err := os.WriteFile(path, elf32(), 0o755); err != nil {
		return err.Error()
	}
	answer := ran(exec.Command(path))
	if answer != "EACCES" {
		return answer
	}
	fd, err := unix.MemfdCreate("exit", unix.MFD_CLOEXEC)
	if err != nil {
		return answer
	}
	memory := os.NewFile(uintptr(fd), "exit")
	_, err = memory.Write(elf32())
	f, reopened := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd)) // what is open for writing cannot be run
	memory.Close()
	if err != nil || reopened != nil {
		return answer
	}
	defer f.Close()
	child := exec.Command("/proc/self/fd/3")
	child.ExtraFiles = []*os.File{f}
	return ran(child)
}

func ran(child *exec.Cmd) string {
	err := child.Run()
	if refused, ok := err.(*os.PathError); ok {
		return name(refused.Err)
	}
	return fmt.Sprint(err)
}

// elf32 is the program, elf(5).
func elf32() []byte {
	const base, head = 0x08048000, 52 + 32
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x0b} // mov eax,1; mov ebx,7; int 0x80; ud2
	size := uint32(head + len(code))
	var file bytes.Buffer
	file.WriteString("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, field := range []any{uint16(2), uint16(3), uint32(1), uint32(base + head), uint32(52), uint32(0), uint32(0),
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(0), uint32(base), uint32(base), size, size, uint32(5), uint32(4096)} {
		_ = binary.Write(&file, binary.LittleEndian, field)
	}
	file.Write(code)
	return file.Bytes()
}

// x32 asks getppid of the 64-bit machine's other table of system calls.
func x32() string {
	const x32Bit = 0x40000000 // __X32_SYSCALL_BIT
	if runtime.GOARCH != "amd64" {
		return "not tried"
	}
	_, _, errno := syscall.RawSyscall(x32Bit|110, 0, 0, 0)
	return name(errno)
}
