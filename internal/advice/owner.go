package advice

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// mostEntries bounds how much of a folder is looked at.
const mostEntries = 1000

// ownerOf is the user who has a path on this host; "": nobody, root, or a service of ours, whose number has no name.
func ownerOf(at string) string {
	info, err := os.Lstat(at)
	if err != nil {
		return ""
	}
	return nameOwner(info)
}

func nameOwner(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return ""
	}
	known, err := user.LookupId(strconv.FormatUint(uint64(stat.Uid), 10))
	if err != nil {
		return ""
	}
	return known.Username
}

// otherOwner is a user who has a folder, or something in it.
func otherOwner(folder string) (owner string) {
	seen := 0
	_ = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if seen++; err != nil || seen > mostEntries {
			return filepath.SkipAll
		}
		if info, err := entry.Info(); err == nil {
			owner = nameOwner(info)
		}
		if owner != "" {
			return filepath.SkipAll
		}
		return nil
	})
	return owner
}
