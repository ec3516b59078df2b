package test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// Two services without a network talk to each other: nginx has the clients, and
// connects to php-fpm's unix socket, which wakes it whenever it sleeps or is dead.
func TestExamplePHP(t *testing.T) {
	t.Parallel()
	dir, n := openFolder(t), ktest.Port(t)
	a := activate(t, "--config", phpExample(t, dir, n))
	onlyNginxMayConnect(t, dir+"/fpm.sock")
	url := fmt.Sprintf("http://127.0.0.1:%d/", n)
	nginx := func(nth int) string { return a.waitN(nth, "service=nginx", "state=running") }
	php := func(nth int) string { return a.waitN(nth, "service=php-fpm", "state=running") }

	phpAnswers(t, url, 1)
	nginx(1)
	phpAnswers(t, fmt.Sprintf("http://[::1]:%d/", n), 2)
	phpCarriesMuch(t, url)
	for run := 1; run <= 3; run++ {
		pid := pidIn(t, php(run))
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have gone to sleep by now
		gone(t, pid)                           // what is on its way out may still take a client
		phpAnswers(t, url, run)                // while it rests
	}
	a.waitN(1, "service=php-fpm", "state=stopping", " idle=")
	a.waitN(5, "service=php-fpm", "state=listening")
	phpAnswers(t, url, 5)
	php(5)
	if kills := a.log.count("its time is over"); kills > 0 || a.log.count("service=nginx", "state=running") != 1 {
		t.Errorf("%d kills, or nginx did not stay", kills)
	}
	pid := pidIn(t, nginx(1))
	killed(t, pid)
	gone(t, pid)
	phpAnswers(t, url, 6)
	nginx(2)
	phpUnderStops(t, a, url)
}

// phpExample copies configs/php, with what a test cannot share with the host changed.
func phpExample(t *testing.T, dir string, n int) string {
	t.Helper()
	installed(t, "nginx")
	found, err := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	if err != nil || len(found) == 0 {
		ktest.Skip(t, "no php-fpm: install it")
	}
	pairs := []string{"/usr/sbin/php-fpm8.2", found[0], "%t/activator-php", dir, ":8080", fmt.Sprint(":", n), `"1m"`, `"2s"`}
	if os.Getuid() != 0 { // as the files say
		pairs = append(pairs, `user = "www-data"`, "", `socket_user = "www-data"`, "")
	}
	change := strings.NewReplacer(pairs...)
	files, err := filepath.Glob("../configs/php/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example: %v", err)
	}
	conf := openFolder(t)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(conf, filepath.Base(file)), []byte(change.Replace(string(text))))
	}
	return conf
}

func pidIn(t *testing.T, line string) (pid int) {
	t.Helper()
	if _, err := fmt.Sscan(field(line, "pid"), &pid); err != nil {
		t.Fatalf("no pid in %q: %v", line, err)
	}
	return pid
}

// onlyNginxMayConnect: a client of php-fpm tells it what to execute.
func onlyNginxMayConnect(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if info.Mode().Perm() != 0o600 || owner == 0 {
		t.Errorf("%s has mode %v and is user %d's", path, info.Mode(), owner)
	}
}

func phpAnswers(t *testing.T, url string, q int) {
	t.Helper()
	status, body, err := get(fmt.Sprintf("%s?q=%d", url, q))
	host := "127.0.0.1"
	if strings.Contains(url, "::1") {
		host = "::1"
	}
	if want := fmt.Sprintf("php %d for %s\n", q, host); status != 200 || string(body) != want || err != nil {
		t.Fatalf("status %d, %q, want %q: %v", status, body, want, err)
	}
}

// phpCarriesMuch: a megabyte in each direction.
func phpCarriesMuch(t *testing.T, url string) {
	t.Helper()
	const size = 1 << 20
	status, body, err := get(fmt.Sprint(url, "?lines=", size/16))
	if status != 200 || !bytes.Equal(body, bytes.Repeat([]byte("0123456789abcde\n"), size/16)) || err != nil {
		t.Errorf("GET: status %d, %d bytes: %v", status, len(body), err)
	}
	large := make([]byte, size)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	answer, err := http.Post(url, "application/octet-stream", bytes.NewReader(large))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err = io.ReadAll(answer.Body)
	if want := fmt.Sprintf("%d bytes, %x\n", size, sha256.Sum256(large)); answer.StatusCode != 200 || string(body) != want || err != nil {
		t.Errorf("POST: status %d, %q, want %q: %v", answer.StatusCode, body, want, err)
	}
}

// phpUnderStops: no client that asks while php-fpm goes to sleep, sleeps and wakes up
// notices. php-fpm finishes what it has taken when it gets its SIGQUIT.
func phpUnderStops(t *testing.T, a *activator, url string) {
	t.Helper()
	before := a.log.count("service=php-fpm", "state=stopping", " idle=")
	deadline := time.Now().Add(waitTimeout)
	for a.log.count("service=php-fpm", "state=stopping", " idle=") < before+3 {
		if time.Now().After(deadline) {
			t.Fatal("php-fpm does not go to sleep")
		}
		time.Sleep(1500*time.Millisecond + time.Duration(rand.IntN(1500))*time.Millisecond)
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				status, body, err := get(url + "?q=7")
				if status != 200 || string(body) != "php 7 for 127.0.0.1\n" || err != nil {
					t.Errorf("while it goes to sleep and wakes up: status %d, %q: %v", status, body, err)
				}
			})
		}
		clients.Wait()
	}
}
