package fd

import "golang.org/x/sys/unix"

// CoarseTime is the time as file systems stamp it: that of the last tick.
func CoarseTime() unix.Timespec {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t)
	return t
}

// IsBornSince reports whether a file was made after the time began: in a folder that somebody
// else may write, another one of ours can be moved into its place, rename(2). A file system that does
// not tell has made nothing since.
func IsBornSince(fd int, began unix.Timespec) bool {
	s, err := readStatus(fd)
	born := s.id.Born
	return err == nil && born != unix.StatxTimestamp{} &&
		(born.Sec > began.Sec || born.Sec == began.Sec && int64(born.Nsec) >= began.Nsec)
}
