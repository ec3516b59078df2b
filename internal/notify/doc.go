// Package notify speaks the sd_notify(3) protocol, both ends of it: a service
// tells readiness and status over the datagram socket that NOTIFY_SOCKET names.
//
//	err := notify.SendState("READY=1") // the service
//
//	s, err := notify.AdoptSocket(f)     // its manager
//	message, pid, err := s.Receive(ctx)
//
// It does not decide which sender may tell what: the sender's pid is the caller's to judge.
package notify
