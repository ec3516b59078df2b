package test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"activator/internal/ktest"
)

// daemon is one of configs, unmodified but for its port, and what a real client of it gets.
type daemon struct {
	example string
	needs   []string // programs
	port    string   // in the example, and in its files where the program binds that itself
	says    string
	ask     func(t *testing.T, n int, dir string) string
	changes []string // further ones
}

// page asks by HTTP.
func page(path string) func(t *testing.T, n int, dir string) string {
	return func(t *testing.T, n int, _ string) string {
		return command(t, "", "curl", "--silent", "--show-error", "--include", "--max-time", "120", fmt.Sprintf("http://127.0.0.1:%d%s", n, path))
	}
}

// run asks by a client of the daemon's own; PORT and DIR are in its arguments.
func run(argv ...string) func(t *testing.T, n int, dir string) string {
	return func(t *testing.T, n int, dir string) string {
		all := make([]string, len(argv))
		for i, arg := range argv {
			all[i] = strings.NewReplacer("PORT", fmt.Sprint(n), "DIR", dir).Replace(arg)
		}
		return command(t, "", all...)
	}
}

// resolve asks for an address, over UDP and over TCP.
func resolve(name string) func(t *testing.T, n int, dir string) string {
	return func(t *testing.T, n int, _ string) string {
		var all []string
		for _, network := range []string{"udp", "tcp"} {
			r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", n))
			}}
			ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
			defer cancel()
			found, err := r.LookupHost(ctx, name)
			if err != nil {
				t.Errorf("%s: %v", network, err)
			}
			slices.Sort(found) // both are asked for at once
			all = append(all, fmt.Sprint(network, found))
		}
		return strings.Join(all, " ")
	}
}

// say sends a line to a TCP port, and reads one.
func say(line string) func(t *testing.T, n int, dir string) string {
	return func(t *testing.T, n int, _ string) string {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		if _, err := c.Write([]byte(line)); err != nil {
			t.Error(err)
		}
		answer := make([]byte, 200)
		k, err := c.Read(answer)
		if err != nil {
			t.Error(err)
		}
		return string(answer[:k])
	}
}

// imapClient logs in, leaves a message, and prints the newest one.
const imapClient = `
import imaplib, sys
c = imaplib.IMAP4("127.0.0.1", int(sys.argv[1]))
c.login("me", "secret")
c.append("INBOX", None, None, b"Subject: test\r\n\r\nhello by IMAP\r\n")
newest = c.select("INBOX")[1][0]
print(newest, c.fetch(newest, "(BODY[])"))
c.logout()
`

// playSound plays a tenth of a second, and says so when it has been heard.
const playSound = `
import os, sys, wave
sound = sys.argv[1] + "/sound.wav"
with wave.open(sound, "wb") as w:
    w.setparams((2, 2, 48000, 0, "NONE", ""))
    w.writeframes(bytes(4 * 4800))
os.execlp("pw-play", "pw-play", "--verbose", "--remote=" + sys.argv[1] + "/pipewire-0", sound)
`

func daemons() []daemon {
	return []daemon{
		{"apache", []string{"apache2", "curl"}, ":8088", "one instance for each request", page("/"), nil},
		{"caddy", []string{"caddy", "curl"}, ":8081", "200 OK", page("/"), nil},
		{"cups", []string{"cupsd", "lpstat"}, "6310", "scheduler is running", run("lpstat", "-h", "127.0.0.1:PORT", "-r"), nil},
		{"dbus", []string{"dbus-daemon", "dbus-send"}, "", "org.freedesktop.DBus", run("dbus-send", "--bus=unix:path=DIR/bus", "--dest=org.freedesktop.DBus", "--print-reply", "/", "org.freedesktop.DBus.ListNames"),
			[]string{"%t/activator-dbus/bus", "DIR/bus"}},
		{"dnsmasq", []string{"dnsmasq"}, ":5300", "udp[192.0.2.7 2001:db8::7] tcp[192.0.2.7 2001:db8::7]", resolve("www.example.test."), nil},
		{"dovecot", []string{"dovecot", "/usr/lib/dovecot/imap", "python3"}, "1143", "hello by IMAP", run("python3", "-c", imapClient, "PORT"), nil},
		{"gunicorn", []string{"gunicorn", "curl"}, ":8083", "gunicorn", page("/"), nil},
		{"haproxy", []string{"haproxy", "curl"}, ":8081", "haproxy", page("/"), nil},
		{"httpd", []string{"busybox", "curl"}, ":8086", "one instance for each request", page("/"), nil},
		{"kresd", []string{"kresd"}, ":5301", "udp[192.0.2.7] tcp[192.0.2.7]", resolve("www.shop.lan."), nil},
		{"mariadb", []string{"mariadbd", "mariadb"}, "", "42", run("mariadb", "--no-defaults", "--host=127.0.0.1", "--port=PORT", "--user=root", "--execute=select 6*7"),
			[]string{`"tcp://127.0.0.1:3306"]`, "\"tcp://127.0.0.1:PORT\"]\ntarget = \"tcp://127.0.0.1:3306\"", "%t/activator-mariadb.sock", "DIR/s"}},
		{"memcached", []string{"memcached"}, "11211", "VERSION", say("version\r\n"), nil},
		{"mosquitto", []string{"mosquitto", "mosquitto_pub"}, "1883", "hello", func(t *testing.T, n int, dir string) string {
			run("mosquitto_pub", "-h", "127.0.0.1", "-p", "PORT", "-t", "a", "-r", "-m", "hello")(t, n, dir)
			return run("mosquitto_sub", "-h", "127.0.0.1", "-p", "PORT", "-t", "a", "-C", "1")(t, n, dir)
		}, nil},
		{"nginx-fds", []string{"nginx", "curl"}, ":8080", "nginx", page("/"), nil},
		{"node", []string{"node", "curl"}, "", "hello", page("/"), []string{"tcp://[::1]:3080", "tcp://127.0.0.1:PORT"}},
		{"node-exporter", []string{"prometheus-node-exporter", "curl"}, ":9100", "node_load1", page("/metrics"), nil},
		{"pipewire", []string{"pipewire", "wireplumber", "pw-play", "python3"}, "", "stream drained", run("python3", "-c", playSound, "DIR"),
			[]string{"%t/activator-pipewire", "DIR"}},
		{"puma", []string{"puma", "curl"}, "9292", "networkless", page("/"), nil},
		{"python-http", []string{"python3", "curl"}, ":8000\"]", "200 OK", page("/"), nil},
		{"radicale", []string{"radicale", "curl"}, "5232", "200 OK", page("/.web/"), nil},
		{"redis", []string{"redis-server"}, "6379", "+PONG", say("PING\r\n"), []string{"%t/activator-redis.sock", "DIR/s", "--bind 127.0.0.1", "--bind 127.0.0.1 --port PORT"}},
		{"rsync", []string{"rsync"}, ":8730", "index.html", run("rsync", "rsync://127.0.0.1:PORT/files/"), nil},
		{"server-starter", []string{"perl", "curl"}, ":8084", "server-starter", page("/"), nil},
		{"transmission", []string{"transmission-daemon", "transmission-remote"}, "9091", "Sum:", run("transmission-remote", "127.0.0.1:PORT", "--list"), nil},
		{"uvicorn", []string{"/usr/lib/python3/dist-packages/uvicorn/__init__.py", "curl"}, ":8082", "uvicorn", page("/"), nil},
		{"uwsgi", []string{"uwsgi", "curl"}, ":8089", "gunicorn", page("/"), nil},
	}
}

// Each daemon is Debian's, unmodified, sealed, and answers a real client: its first one, and once more. One run does for both,
// or one for each where it says accept. The log has no complaint.
func TestDaemons(t *testing.T) {
	for _, d := range daemons() {
		t.Run(d.example, func(t *testing.T) {
			if d.example == "pipewire" { // before Linux 6.7 WirePlumber's pid is not seen either
				ktest.OldKernel(t, program(t, "oldkernel"), "6.8")
			}
			dir, n := openFolder(t), ktest.Port(t)
			changes := append([]string{}, d.changes...)
			if d.port != "" {
				changes = append(changes, d.port, strings.Replace(d.port, strings.Trim(d.port, ":\"]"), fmt.Sprint(n), 1))
			}
			changes = append(changes, fmt.Sprintf("%q", "activator-"+d.example), fmt.Sprintf("%q", stateFolder(t)))
			for _, need := range d.needs {
				path := need
				if !isFile(need) {
					path = installed(t, need)
				}
				changes = append(changes, fmt.Sprintf("%q", "/usr/bin/"+need), fmt.Sprintf("%q", path), fmt.Sprintf("%q", "/usr/sbin/"+need), fmt.Sprintf("%q", path))
			}
			for i, c := range changes {
				changes[i] = strings.NewReplacer("PORT", fmt.Sprint(n), "DIR", dir).Replace(c)
			}
			a := activate(t, "--config", exampleIn(t, dir, d.example, changes...))
			for range 2 {
				if got := d.ask(t, n, dir); !strings.Contains(got, d.says) {
					t.Errorf("%q, without %q", got, d.says)
				}
			}
			if n := a.log.count("level=WARN") + a.log.count("level=ERROR") + a.log.count("seal incomplete"); n > 0 {
				t.Errorf("%d complaints in the log", n)
			}
		})
	}
}
