package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"activator/internal/ktest"
)

// What a program of musl's does at its start and in its life: it makes other
// system calls than glibc's, for threads, names, random numbers and times.
const muslSource = `
#include <ifaddrs.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *worker(void *arg) { *(int *)arg = 7; return 0; }

int main(void) {
	int answer = 0;
	pthread_t thread;
	if (pthread_create(&thread, 0, worker, &answer) || pthread_join(thread, 0) || answer != 7) return 1;
	struct addrinfo *found;
	if (getaddrinfo("127.0.0.1", "80", 0, &found)) return 2;
	freeaddrinfo(found);
	struct ifaddrs *addresses;
	if (getifaddrs(&addresses)) return 3;
	freeifaddrs(addresses);
	char line[16];
	FILE *child = popen("echo child", "r");
	if (!child || !fgets(line, sizeof line, child) || strcmp(line, "child\n") || pclose(child)) return 4;
	unsigned char noise[16];
	if (getrandom(noise, sizeof noise, 0) != sizeof noise) return 5;
	struct timespec pause = {0, 1000000};
	if (nanosleep(&pause, 0) || !time(0)) return 6;
	FILE *file = fopen("/tmp/written", "w");
	if (!file || fputs("text", file) < 0 || fclose(file) || chmod("/tmp/written", 0600)) return 7;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || write(pair[0], "x", 1) != 1) return 8;
	struct pollfd waiting = {.fd = pair[1], .events = POLLIN};
	if (poll(&waiting, 1, 1000) != 1) return 9;
	pid_t forked = fork();
	if (!forked) { raise(SIGTERM); _exit(0); }
	int status;
	if (waitpid(forked, &status, 0) != forked || !WIFSIGNALED(status)) return 10;
	char *block = realloc(malloc(1 << 20), 1 << 24);
	if (!block) return 11;
	free(block);
	puts("end");
	return 0;
}
`

func TestMusl(t *testing.T) {
	ktest.Filters(t)
	compiler, err := exec.LookPath("musl-gcc")
	if err != nil {
		ktest.Skip(t, "%v: install musl-tools", err)
	}
	dir, err := os.MkdirTemp("", "musl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	source, built := filepath.Join(dir, "service.c"), filepath.Join(dir, "service")
	if err := os.WriteFile(source, []byte(muslSource), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, "-static", "-o", built, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, exit := run(t, sandboxed(built)).end(t); out != "end\n" || !exit.OK() {
		t.Errorf("%v, got\n%s", exit, out)
	}
}
