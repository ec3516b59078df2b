// Package fd is what all do alike with descriptors: it lends that of a file, repeats
// system calls that a signal interrupts, and has them end with a context.
//
//	err := fd.Read(conn, func(fd int) error { ... })   // once something is there
//	defer fd.EndWith(ctx, conn.SetReadDeadline)()
//
// It also walks to a path component by component, by descriptor, so that only
// root and we can say where it leads:
//
//	place, err := fd.WalkTo("/srv/app/log/today")
//	file, err := place.Open(unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o640)
//
// Links that stand in folders which only root and we may write are followed: /var/run,
// a home that is a link. From the first folder on that another user may write no link
// is followed, neither in it nor below it; that one is refused with a [LinkError]. Every service
// counts as another user: an ordinary user's services have the id of that user, so
// ownership tells nothing about them. Which folders are services' is said by [ClaimFolders].
//
// A place is used by its descriptor ([Folder.FD], the *at system calls), or by
// [Place.Path], which has no link in it and is opened with RESOLVE_NO_SYMLINKS, where a
// descriptor does not help: open_tree(2) clones no mount of another mount namespace.
//
// It does not see that a folder is a bind mount of one that lies in a service's.
package fd
