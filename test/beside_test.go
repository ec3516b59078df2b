package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A script beside the configuration is named by its path: the program has another root. Check and
// the log say so with the line to write; what is mounted, or no file, is nothing to say.
func TestArgumentBeside(t *testing.T) {
	dir := folder(t)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "app.sh"), []byte("echo hello\n"), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		service string
		told    bool
	}{
		"beside":    {`exec = ["/bin/sh", "app.sh"]`, true},
		"mounted":   {fmt.Sprintf("exec = [\"/bin/sh\", \"app.sh\"]\nworking_directory = %q\n[sandbox]\nread_only = [%q]", dir, dir), false},
		"elsewhere": {fmt.Sprintf("exec = [\"/bin/sh\", \"app.sh\"]\nworking_directory = \"/srv\"\n[sandbox]\nread_only = [\"%s/app.sh:/srv/app.sh\"]", dir), false},
		"its path":  {fmt.Sprintf("exec = [\"/bin/sh\", \"%s/app.sh\"]\n[sandbox]\nread_only = [\"%s/app.sh\"]", dir, dir), false},
		"no file":   {`exec = ["/bin/sh", "app.py"]`, false},
		"a switch":  {`exec = ["/bin/sh", "-app.sh"]`, false},
	} {
		conf := configureIn(t, dir, "app", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\n%s\n", dir, test.service))
		out, err := exec.Command(program(t, "activator"), "check", "--config", conf).CombinedOutput()
		want := fmt.Sprintf(`write "%[1]s/app.sh", and in [sandbox] read_only = ["%[1]s/app.sh"]`, dir)
		if err != nil || strings.Contains(string(out), want) != test.told {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if test.told {
			activate(t, "--config", conf).wait("level=WARN", "is a file beside the configuration")
		}
	}
}
