package seccomp

import "slices"

// pathCalls are the calls that name a path, or an id that the program wants to be or to give files to. What
// a supervisor is told of them it passes on: nothing is decided by it. Not execve(2): of the program the start says why it
// cannot be, and shells say it of theirs.
var pathCalls = []call{
	{"open", 2, none}, {"openat", 257, 56}, {"creat", 85, none}, {"truncate", 76, 45},
	{"stat", 4, none}, {"lstat", 6, none}, {"newfstatat", 262, 79}, {"statx", 332, 291}, {"statfs", 137, 43},
	{"access", 21, none}, {"faccessat", 269, 48}, {"faccessat2", 439, 439},
	{"chdir", 80, 49}, {"mkdir", 83, none}, {"mkdirat", 258, 34}, {"mknod", 133, none}, {"mknodat", 259, 33},
	{"chown", 92, none}, {"lchown", 94, none}, {"fchown", 93, 55}, {"fchownat", 260, 54},
	{"setuid", 105, 146}, {"setgid", 106, 144}, {"setreuid", 113, 145}, {"setregid", 114, 143}, {"setresuid", 117, 147}, {"setresgid", 119, 149},
}

func isPathCall(name string) bool {
	return slices.ContainsFunc(pathCalls, func(c call) bool { return c.name == name })
}

// tellPaths hands these calls over, whatever the filter says to them.
func (p *Profile) tellPaths(m machine) (cases []one) {
	for _, c := range pathCalls {
		if number := m.number(c); number != none {
			cases = append(cases, casesOf(askSupervisor(), uint32(number))...)
		}
	}
	return cases
}
