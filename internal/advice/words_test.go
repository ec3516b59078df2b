package advice

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What programs print, and the line that they are told to write; "": nothing is known.
func TestHintOfALine(t *testing.T) {
	const user = `user = "NAME" below [service]`
	own := func(key, name, folder string) string {
		if os.Geteuid() == 0 {
			return fmt.Sprintf("%s = %q below [service]", key, name)
		}
		return fmt.Sprintf("tmpfs = [%q] below [sandbox]", folder)
	}
	has := func(at string, writable bool) bool { return !writable && strings.HasPrefix(at, "/var/log/there/") }
	there := t.TempDir()
	if err := os.WriteFile(there+"/old", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"open " + there + "/old: no such file or directory":                                                    fmt.Sprintf("read_only = [%q] below [sandbox] if it is the host's", there+"/old"),
		"open " + there + "/new: no such file or directory":                                                    fmt.Sprintf("writable = [%q] below [sandbox] if the program makes it", there),
		"open " + there + "/none/new: no such file or directory":                                               fmt.Sprintf("not there, inside or on the host: make it, and write read_only = [%q]", there+"/none/new"),
		"open /var/log/x.log: no such file or directory":                                                       "or to /run, /tmp or /var",
		"nginx: [emerg] mkdir() \"/var/cache/nginx/body\" failed (2: No such file or directory)":               own("cache_directory", "nginx", "/var/cache/nginx"),
		"open /var/lib/grafana/grafana.db: no such file or directory":                                          own("state_directory", "grafana", "/var/lib/grafana"),
		"Can't create PID file /run/mysqld/mysqld.pid (Errcode: 2 \"No such file or directory\")":              own("runtime_directory", "mysqld", "/run/mysqld"),
		"FileNotFoundError: [Errno 2] No such file or directory: '/var/log/shop/x.log'":                        own("logs_directory", "shop", "/var/log/shop"),
		"Error: ENOENT: no such file or directory, open '/sys/class/dmi/id/product_uuid'":                      `read_only = ["/sys"] below [sandbox]`,
		"/usr/local/bin/start.sh: line 3: /data/x: No such file or directory":                                  `read_only = ["/data/x"] below [sandbox]`,
		"2024/01/02 10:00:00 open /srv/x/y: read-only file system":                                             `writable = ["/srv/x"] below [sandbox]`,
		"2024/01/02 10:00:00 [emerg] 1/1: open() failed (2: No such file or directory)":                        "",
		"cannot open /etc/no/such/file: No such file or directory":                                             "",
		"open /proc/1/mem: no such file or directory":                                                          "",
		"open /var/lib/x.db: no such file or directory":                                                        "or to /run, /tmp or /var",
		"open /var/lib/../x: no such file or directory":                                                        "or to /run, /tmp or /var",
		"mkdir: cannot create directory '/opt/shop': Read-only file system":                                    `writable = ["/opt"] below [sandbox]`,
		"open /x.log: read-only file system":                                                                   "or to /run, /tmp or /var",
		"open /etc/x.conf: read-only file system":                                                              "or to /run, /tmp or /var",
		"open /proc/sys/net/core/somaxconn: read-only file system":                                             "or to /run, /tmp or /var",
		"java.io.FileNotFoundException: /var/lib/tomcat9/logs (Permission denied)":                             own("state_directory", "tomcat9", "/var/lib/tomcat9"),
		"tomcat: /var/lib/tomcat9/logs (Permission denied)":                                                    own("state_directory", "tomcat9", "/var/lib/tomcat9"),
		"open /etc/ssl/private/key.pem: permission denied":                                                     user,
		"chroot(\"/var/empty\"): Operation not permitted":                                                      "",
		`connection to server on socket "/var/run/postgresql/.s.PGSQL.5432" failed: No such file or directory`: "",
		"open /run/mysqld/mysqld.sock: no such file or directory":                                              "",
		"open /var/log/there/x: permission denied":                                                             "",
		"open /var/log/there/x: read-only file system":                                                         `writable = ["/var/log/there"] below [sandbox]`,
		"connect(/run/x.sock): Operation not permitted":                                                        "",
		"bind() to /run/x.sock failed (13: Permission denied)":                                                 "",
		"chown(\"/var/lib/nginx/body\", 33) failed (22: Invalid argument)":                                     user,
		"mosquitto: Error setting groups whilst dropping privileges: Operation not permitted.":                 user,
		"initgroups(www-data, 33) failed (1: Operation not permitted)":                                         user,
		"setting TCP_USER_TIMEOUT: Invalid argument":                                                           "",
		"reset offsets of group x: invalid argument":                                                           "",
		"unknown user: _rpc":                 user,
		"getpwnam(\"nginx\") failed":         user,
		"FATAL: role \"app\" does not exist": "",
		"GET /user 404 not found":            "",
		"accept4: too many open files":       "limits = { nofile = NUMBER } below [service]",
		"listening on port 8080":             "",
		"":                                   "",
	} {
		got := ReadLine(line, has)
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q: %q, not %q", line, got, want)
		}
	}
}

// A program may print what it likes.
func FuzzHint(f *testing.F) {
	f.Add("open /var/lib/x: no such file or directory")
	f.Add("/ no such file or directory")
	f.Add("chown \xff invalid argument")
	f.Fuzz(func(t *testing.T, line string) { _ = ReadLine(line, func(string, bool) bool { return false }) })
}
