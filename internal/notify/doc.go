// Package notify speaks the sd_notify(3) protocol, both ends of it: a service
// tells readiness and status over the datagram socket that NOTIFY_SOCKET names.
package notify
