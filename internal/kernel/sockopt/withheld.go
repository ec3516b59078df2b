package sockopt

import (
	"os"

	"golang.org/x/sys/unix"
)

// Password lets through, behind the value of an option, what a listener withholds: see
// seal/sockfilter. Nobody but us knows it. Zero: it withholds nothing.
type Password [8]byte

// WithPassword is the length of a value with the password behind it: no value of what is withheld is
// longer than the rest, and of all of them the kernel reads no more than it knows.
const WithPassword = 16 + len(Password{})

// WithheldNames lists the options that are withheld, by level.
func WithheldNames() map[int][]int {
	names := make(map[int][]int)
	for i := range Table {
		if o := &Table[i]; o.Use&Withheld != 0 {
			names[o.Level] = append(names[o.Level], o.Name)
		}
	}
	return names
}

// withholds reports whether a listener of its kind keeps an option from a service by whatever means there are.
func (l layers) withholds(o *Option) bool {
	return o.Use&Withheld != 0 && o.Use&Frequent == 0 && (l.protocol == unix.IPPROTO_TCP || l.protocol == unix.IPPROTO_MPTCP)
}

// TryWithheld sets an option of those on fd, a socket of TCP that is closed then, and reports whether
// nothing came of that.
func TryWithheld(fd int) (withheld bool, err error) {
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1)
	if err != nil {
		return false, os.NewSyscallError("setsockopt", err)
	}
	value, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	return value == 0, os.NewSyscallError("getsockopt", err)
}

// SetCall is the number of setsockopt(2), for whoever sees a program ask for it.
const SetCall = unix.SYS_SETSOCKOPT

// SetFor sets an option of fd for a program that asked for it, whatever it is.
func SetFor(fd, level, name int, value []byte) error {
	return (&Option{Level: level, Name: name}).writeValue(fd, name, value)
}

// writeValue is [Option.writeValue] on the socket of s.
func (s *State) writeValue(o *Option, fd, name int, value []byte) error {
	return o.writeWith(s.Password, fd, name, value)
}

// writeWith is writeValue on a socket that may withhold the option.
func (o *Option) writeWith(password Password, fd, name int, value []byte) error {
	if o.Use&Withheld == 0 || password == (Password{}) {
		return o.writeValue(fd, name, value)
	}
	var long [WithPassword]byte
	copy(long[:len(long)-len(password)], value)
	copy(long[len(long)-len(password):], password[:])
	return o.writeValue(fd, name, long[:])
}
