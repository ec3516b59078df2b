package seccomp

import "slices"

// pathCalls are the calls that name a path, or an id that the program wants to give files to. What
// a supervisor is told of them it passes on: nothing is decided by it. Not execve(2): of the program the start says why it
// cannot be, and shells say it of theirs.
var pathCalls = []call{
	{"open", 2, none}, {"openat", 257, 56}, {"creat", 85, none}, {"truncate", 76, 45},
	{"stat", 4, none}, {"lstat", 6, none}, {"newfstatat", 262, 79}, {"statx", 332, 291}, {"statfs", 137, 43},
	{"access", 21, none}, {"faccessat", 269, 48}, {"faccessat2", 439, 439},
	{"chdir", 80, 49}, {"mkdir", 83, none}, {"mkdirat", 258, 34}, {"mknod", 133, none}, {"mknodat", 259, 33},
	{"chown", 92, none}, {"lchown", 94, none}, {"fchown", 93, 55}, {"fchownat", 260, 54},
}

// idCalls are those by which a program changes its user or its groups. The kernel refuses them, and not the filter: an id that the
// service does not have is EINVAL, and setgroups(2) EPERM. They are few, and told of every program that is observed.
var idCalls = []call{
	{"setuid", 105, 146}, {"setgid", 106, 144}, {"setreuid", 113, 145}, {"setregid", 114, 143}, {"setresuid", 117, 147}, {"setresgid", 119, 149},
	{"setgroups", 116, 159},
}

// toldCalls are the calls that are handed over to be told of, whatever the filter says to them.
func (p *Profile) toldCalls() (told []call) {
	if p.observe {
		told = idCalls
	}
	if p.paths {
		told = slices.Concat(told, pathCalls)
	}
	return told
}

// isTold reports whether one of these has a name.
func (p *Profile) isTold(name string) bool {
	return slices.ContainsFunc(p.toldCalls(), func(c call) bool { return c.name == name })
}

// tellCalls hands them over.
func (p *Profile) tellCalls(m machine) (cases []one) {
	for _, c := range p.toldCalls() {
		if number := m.number(c); number != none {
			cases = append(cases, casesOf(askSupervisor(), uint32(number))...)
		}
	}
	return cases
}
