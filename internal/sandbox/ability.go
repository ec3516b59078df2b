package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strings"

	subid "github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// ListAbilities looks at the running system. It changes nothing and starts nothing;
// whether the default sandbox really works only a start can tell.
func ListAbilities() []spec.Ability {
	kernel := RunningKernel()
	abilities := []spec.Ability{
		kernelAbility(), userNamespaces(), appArmorAbility(), ownFilter(), procAbility(), mountAPI(), pidfdAbility(),
		seccompFilter(kernel.Filters), landlockAbility(kernel.Landlock),
		capabilityAbility("joining network namespaces", "network = \"netns:NAME\" does not work", unix.CAP_SYS_ADMIN),
		idAbility(),
		capabilityAbility("raising hard limits", "limits of services cannot be above the activator's own", unix.CAP_SYS_RESOURCE),
		portAbility(), subordinateIDs(),
	}
	for i := range abilities {
		if abilities[i].OK {
			abilities[i].Cure = ""
		}
	}
	return abilities
}

func kernelAbility() spec.Ability {
	a := spec.Ability{Name: "kernel", Detail: proc.KernelRelease(), Needs: "nothing works", Cure: cureKernel, Required: true}
	var major, minor int
	_, _ = fmt.Sscanf(a.Detail, "%d.%d", &major, &minor)
	a.OK = major > 5 || major == 5 && minor >= 15
	return a
}

func userNamespaces() spec.Ability {
	a := spec.Ability{Name: "user namespaces", OK: true, Needs: "no sandbox can be made", Required: true}
	ordinary := os.Geteuid() != 0
	switch {
	case !pathExists("/proc/self/ns/user"):
		a.OK, a.Detail, a.Cure = false, "no /proc/self/ns/user", "a kernel with CONFIG_USER_NS, and /proc mounted"
	case proc.ReadSysctl(sysctlUsers) == "0":
		a.OK, a.Cure = false, cureUsers
	case ordinary && proc.ReadSysctl(sysctlClone) == "0":
		a.OK, a.Cure = false, cureClone
	}
	if a.Detail == "" {
		a.Detail = showSysctls(sysctlUsers, sysctlClone)
	}
	return a
}

func appArmorAbility() spec.Ability {
	restricted := os.Geteuid() != 0 && proc.ReadSysctl(sysctlAppArmor) == "1"
	a := spec.Ability{Name: "no AppArmor restriction", OK: !restricted, Detail: showSysctls(sysctlAppArmor),
		Needs: "an ordinary user can make no sandbox, unless a profile allows it", Cure: cureAppArmor}
	if a.Detail == "" {
		a.Detail = "no " + sysctlAppArmor
	}
	return a
}

func ownFilter() spec.Ability {
	a := spec.Ability{Name: "no seccomp filter on us", OK: !isFiltered(), Detail: "none",
		Needs: "no sandbox can be made, where the filter refuses namespaces or mounts", Cure: cureSeccomp}
	if !a.OK {
		a.Detail = "Seccomp: 2 in /proc/self/status"
	}
	return a
}

func procAbility() spec.Ability {
	over := overProc()
	a := spec.Ability{Name: "an uncovered /proc", OK: len(over) == 0, Detail: "nothing is mounted over it", Needs: "no sandbox can be made: each has a fresh /proc", Required: true}
	if !a.OK {
		a.Detail, a.Cure = "covered: "+strings.Join(over, " "), cureOfCover(over)
	}
	return a
}

// mountAPI calls what would do nothing: all but ENOSYS (and a filter's EPERM)
// is an answer of the real thing.
func mountAPI() spec.Ability {
	a := spec.Ability{Name: "mount API", OK: true, Detail: "open_tree, move_mount, mount_setattr", Needs: "no sandbox can be made", Cure: cureKernel, Required: true}
	_, open := unix.OpenTree(-1, "", 0)
	move := unix.MoveMount(-1, "", -1, "", 0)
	attr := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
	for _, err := range []error{open, move, attr} {
		if errors.Is(err, unix.ENOSYS) {
			a.OK, a.Detail = false, err.Error()
		}
	}
	return a
}

func pidfdAbility() spec.Ability {
	a := spec.Ability{Name: "pidfd", OK: true, Detail: "pidfd_open", Needs: "nothing works: processes cannot be waited for", Cure: cureKernel, Required: true}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		a.OK, a.Detail = false, os.NewSyscallError("pidfd_open", err).Error()
		return a
	}
	_ = unix.Close(fd)
	return a
}

func seccompFilter(have bool) spec.Ability {
	a := spec.Ability{Name: "seccomp filters", OK: have, Detail: "SECCOMP_MODE_FILTER", Needs: "no sandbox can be made: the filter is the list of system calls, the seal, connect and handover = \"bind\"",
		Cure: "a kernel with CONFIG_SECCOMP_FILTER", Required: true}
	if !have {
		a.Detail = "none"
	}
	return a
}

// capabilityAbility is an ability that capabilities on the host give.
func capabilityAbility(name, needs string, numbers ...uint) spec.Ability {
	a := spec.Ability{Name: name, OK: true, Needs: needs}
	var have, lack []string
	for _, number := range numbers {
		if access.HoldsCapability(number) {
			have = append(have, spec.Capabilities[number])
		} else {
			lack = append(lack, spec.Capabilities[number])
		}
	}
	a.Detail = strings.Join(have, " ")
	if len(lack) > 0 {
		a.OK, a.Detail, a.Cure = false, "missing "+strings.Join(lack, " "), "run the activator as root"
		if os.Geteuid() == 0 {
			a.Cure = "give the container or virtual machine the capability"
		}
	}
	return a
}

// idAbility takes the capabilities, and ids that our user namespace has.
func idAbility() spec.Ability {
	a := capabilityAbility("an own user id for every service", "services are not separated from the activator's user and from each other by their ids", unix.CAP_SETUID, unix.CAP_SETGID)
	if a.OK && !(MapsID(firstServiceID) && MapsID(lastServiceID)) {
		a.OK, a.Detail = false, fmt.Sprintf("the user namespace that we are in lacks ids from %d to %d", firstServiceID, lastServiceID)
		a.Cure = "give the container or the user namespace 65536 ids, of users and of groups"
	}
	return a
}

func portAbility() spec.Ability {
	a := capabilityAbility("ports below 1024", "sockets on such ports cannot be opened", unix.CAP_NET_BIND_SERVICE)
	const name = "net.ipv4.ip_unprivileged_port_start"
	if start := proc.ReadSysctl(name); !a.OK && start != "" {
		var first int
		_, _ = fmt.Sscan(start, &first)
		a.OK, a.Detail = first <= 80, showSysctls(name)
	}
	a.Cure = "run the activator as root, or sysctl -w " + name + "=80"
	return a
}

// subordinateIDs are for a rootless Podman, subuid(5).
func subordinateIDs() spec.Ability {
	a := spec.Ability{Name: "subordinate ids", OK: true, Detail: "root needs none", Needs: "[container] does not work for an ordinary user"}
	if os.Geteuid() == 0 {
		return a
	}
	a.OK, a.Detail = false, "no entry in /etc/subuid"
	a.Cure = "apt install uidmap && usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
	u, err := user.Current()
	if err != nil {
		return a
	}
	ranges, _ := subid.ParseSubIDFileFilter("/etc/subuid", func(r subid.SubID) bool { return r.Name == u.Username || r.Name == u.Uid })
	for _, r := range ranges {
		a.OK, a.Detail = true, fmt.Sprintf("%s:%d:%d", r.Name, r.SubID, r.Count)
		if _, err := exec.LookPath("newuidmap"); err != nil {
			a.OK, a.Detail = false, "no newuidmap in PATH"
		}
	}
	return a
}

func pathExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// showSysctls shows the settings that this kernel has.
func showSysctls(names ...string) string {
	var shown []string
	for _, name := range names {
		if value := proc.ReadSysctl(name); value != "" {
			shown = append(shown, name+"="+value)
		}
	}
	return strings.Join(shown, " ")
}

// landlockAbility tells the ABI and what it lacks.
func landlockAbility(abi int) spec.Ability {
	a := spec.Ability{Name: "Landlock", OK: abi >= abiScopes, Detail: fmt.Sprintf("ABI %d", abi), Cure: "a newer kernel",
		Needs: "one restriction more, behind the list of system calls and the mounts"}
	var lacks, without []string
	for _, level := range landlockLevels {
		if abi >= level.abi {
			continue
		}
		lacks = append(lacks, fmt.Sprintf("%s (ABI %d, Linux %s)", level.brought, level.abi, level.linux))
		if level.without != "" {
			without = append(without, level.without)
		}
	}
	if len(lacks) > 0 {
		a.Detail += ", without " + strings.Join(lacks, ", ")
		a.Needs = "the default works, with one restriction less behind the list of system calls and the mounts; " + strings.Join(without, "; ")
	}
	if abi == 0 {
		a.Detail, a.Cure = "off", "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in the boot parameter lsm="
	}
	return a
}
