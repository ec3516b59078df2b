package sandbox

import "syscall"

func cure(step, path string, errno syscall.Errno) string { return "" }
