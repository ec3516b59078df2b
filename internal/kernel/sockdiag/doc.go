// Package sockdiag asks the kernel for the sockets of a network namespace, sock_diag(7), by
// netlink(7).
//
//	err := sockdiag.WithSocket(func(socket int) error {
//		return sockdiag.Inet{Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP, States: sockdiag.Listening}.Each(socket, see)
//	})
//
// [Exchange] is the codec: a message and its answers, also for rtnetlink(7).
//
// It makes no socket anywhere else: the asker about another namespace brings one of that.
package sockdiag
