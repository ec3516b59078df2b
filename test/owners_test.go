package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"activator/internal/ktest"
)

// gives tries to give files to MAIL, in OWN and elsewhere.
const gives = `
import json, os, struct
from socket import *
def tried(f, *a, **k):
    try: f(*a, **k)
    except OSError as e: return e.strerror
    return "ok"
def made(path):
    open(path, "w").close()
    return path
c = socket(fileno=3).accept()[0]
seen = {"client": struct.unpack("3i", c.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[1] == MAIL}
s = os.stat(SHARED + "/theirs")
seen["file"] = [s.st_uid == MAIL, s.st_gid == MAIL, os.stat("/usr").st_uid == 0]
os.chdir(OWN)
folder, f = os.open(".", os.O_RDONLY), os.open(made("c"), os.O_RDWR)
os.symlink("a", "link"); os.symlink("nowhere", "dangling"); os.symlink(SHARED + "/mine", "out"); os.mkdir("folder")
seen["given"] = [tried(os.chown, made("a"), MAIL, MAIL), tried(os.chown, made(OWN + "/b"), MAIL, -1), tried(os.fchown, f, -1, MAIL), tried(os.lchown, "dangling", MAIL, MAIL),
    tried(os.chown, made("d"), 0, 0, dir_fd=folder), tried(os.chown, "folder", MAIL, MAIL), tried(os.chown, "link", MAIL, MAIL), tried(os.chown, "a", MAIL, -1)]
seen["back"] = [tried(os.chown, "a", os.getuid(), -1), tried(os.chown, "a", 0, -1)]
seen["elsewhere"] = [tried(os.chown, made("/tmp/a"), MAIL, MAIL), tried(os.chown, made(SHARED + "/mine"), MAIL, MAIL), tried(os.chown, SHARED + "/theirs", 0, 0), tried(os.chown, "out", MAIL, MAIL)]
seen["whole"] = [tried(os.chown, OWN, MAIL, MAIL), tried(os.chown, ".", 0, -1), tried(os.fchown, folder, MAIL, -1), tried(os.chown, ".", -1, MAIL),
    tried(os.chown, ".", -1, os.getgid())] # else the next start takes the group of all that is in it back, too
seen["right"] = [tried(open, SHARED + "/theirs"), tried(os.setuid, MAIL), tried(os.kill, 1, 0)]
seen["wrong"] = [tried(os.chown, made("e"), 12345, -1), tried(os.chown, "none", MAIL, MAIL), tried(os.chown, "", MAIL, MAIL)]
os.rename("/var/lib", "/var/lab"); os.mkdir("/var/lib"); os.symlink(SHARED, OWN)
seen["moved"] = [tried(os.chown, OWN + "/mine", MAIL, MAIL), tried(os.chown, made("/var/lab/" + os.path.basename(OWN) + "/g"), MAIL, MAIL)]
c.send(json.dumps(seen).encode())`

// Further users are seen as what they are: of files, and of the clients of a unix socket. What is the service's own can be given
// to them in its own directories, and nowhere else; nothing of theirs is the service's.
func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has others seen in a sandbox")
	}
	mail := idOf(t, "mail")
	name := fmt.Sprintf("activator-owners-%d", os.Getpid())
	own, shared := "/var/lib/"+name, openFolder(t)
	t.Cleanup(func() { _ = os.RemoveAll(own) })
	writeFile(t, shared+"/theirs", []byte("secret"))
	if err := errors.Join(os.Chown(shared+"/theirs", mail, mail), os.Chmod(shared+"/theirs", 0o600), os.Chmod(shared, 0o777)); err != nil {
		t.Fatal(err)
	}
	program := strings.NewReplacer("MAIL", fmt.Sprint(mail), "OWN", fmt.Sprintf("%q", own), "SHARED", fmt.Sprintf("%q", shared)).Replace(gives)
	a := activate(t, "--config", configureIn(t, shared, "owners", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nstate_directory = %q\nexec = [\"python3\", \"-c\", %q]\n"+
		"[sandbox]\nwritable = [%q]\nusers = [\"mail\", \"root\"]\ngroups = [\"mail\", 0]\n", shared, name, program, shared)))
	client := exec.Command("/usr/bin/python3", "-c", "import socket; c = socket.socket(socket.AF_UNIX); c.connect('"+shared+"/s'); print(c.recv(10000).decode())")
	client.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(mail), Gid: uint32(mail)}}
	out, err := client.Output()
	seen := map[string]any{}
	if err := errors.Join(err, json.Unmarshal(out, &seen)); err != nil {
		t.Fatal(err)
	}
	const no, none = "Operation not permitted", "No such file or directory"
	for part, want := range map[string]any{
		"client": true, "file": []bool{true, true, true}, "given": []string{"ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok"}, "back": []string{no, no},
		"elsewhere": []string{no, no, no, no}, "whole": []string{no, no, no, "ok", "ok"}, "right": []string{"Permission denied", no, "ok"}, "wrong": []string{"Invalid argument", none, none}, "moved": []string{no, "ok"},
	} {
		if fmt.Sprint(seen[part]) != fmt.Sprint(want) {
			t.Errorf("%s: %v, not %v", part, seen[part], want)
		}
	}
	for path, ids := range map[string][2]int{own + "/a": {mail, mail}, own + "/b": {mail, -1}, own + "/c": {-1, mail}, own + "/d": {0, 0},
		own + "/dangling": {mail, mail}, own + "/folder": {mail, mail}, shared + "/theirs": {mail, mail}, shared + "/mine": {-1, -1}} {
		isOwnedBy(t, path, ids)
	}
	a.wait("users or groups has root")
}

// isOwnedBy wants a file to be of a user and a group; -1: of a service's own.
func isOwnedBy(t *testing.T, path string, ids [2]int) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	stat := info.Sys().(*syscall.Stat_t)
	for i, got := range []int{int(stat.Uid), int(stat.Gid)} {
		if got != ids[i] && (ids[i] >= 0 || got < 61184) {
			t.Errorf("%s: %d, not %d", path, got, ids[i])
		}
	}
}

// A user who is not there, or cannot be seen, is an error with a cure; and so is a right over those that are seen.
func TestOwnersRefused(t *testing.T) {
	names := [2]string{"users: no-such-user: no such name", "groups: no-such-group: no such name"}
	if os.Geteuid() != 0 {
		names = [2]string{"only root has others seen in a sandbox", "only root has others seen in a sandbox"}
	}
	for keys, want := range map[string]string{
		"users = [\"no-such-user\"]":                                names[0],
		"groups = [\"no-such-group\"]":                              names[1],
		"users = [\"mail\"]\ncapabilities = [\"CAP_DAC_OVERRIDE\"]": "a right over the files and processes",
	} {
		dir := openFolder(t)
		file := configureIn(t, dir, "owners", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"/bin/true\"]\n[sandbox]\n%s\n", dir, keys))
		if text, code := ends(t, "check", "--config", file); code == 0 || !strings.Contains(text, want) {
			t.Errorf("%s: %d\n%s", keys, code, text)
		}
	}
}

func idOf(t *testing.T, name string) int {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	id, _ := strconv.Atoi(u.Uid)
	return id
}
