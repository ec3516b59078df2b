package fd

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Somebody puts another folder of ours in the place of the one that we have just made: only ours becomes as
// wide as it shall be.
func TestFolderExchangedWhenMade(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077)) // so that the mode is to be changed
	defer func(before func()) { folderMade = before }(folderMade)
	for name, test := range map[string]struct {
		old, holds bool // the other folder has been there before, something is in it
		mode       os.FileMode
	}{
		"ours":           {mode: 0o755},
		"an older one":   {old: true, mode: 0o700},
		"one with files": {holds: true, mode: 0o700},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, "theirs/")
			if err := os.Chmod(dir+"/theirs", 0o777); err != nil {
				t.Fatal(err)
			}
			private := dir + "/theirs/private"
			makePrivate := func() {
				err := os.Mkdir(private, 0o700)
				if test.holds {
					err = errors.Join(err, os.WriteFile(private+"/key", nil, 0o600))
				}
				if err != nil {
					t.Error(err)
				}
			}
			if test.old {
				makePrivate()
				time.Sleep(20 * time.Millisecond) // file systems stamp with the last tick, of 10 ms at most
			}
			folderMade = func() {
				if name == "ours" {
					return
				}
				if !test.old {
					makePrivate()
				}
				if err := unix.Renameat2(unix.AT_FDCWD, dir+"/theirs/new", unix.AT_FDCWD, private, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
				}
			}
			place, err := MakeParents(dir+"/theirs/new/socket", 0o755)
			if err != nil {
				t.Fatal(err)
			}
			place.Close()
			info, err := os.Stat(dir + "/theirs/new")
			if err != nil || info.Mode().Perm() != test.mode {
				t.Errorf("%v, %v, want %v", info.Mode(), err, test.mode)
			}
		})
	}
}
