// Package fdstore keeps descriptors that one instance of a service leaves for the next one: FDSTORE=1
// of sd_notify(3), FileDescriptorStoreMax= of systemd.service(5).
//
//	store := fdstore.New(most, accepted)
//	err := store.Add(fd, "state", true) // of an instance
//	fds, names, err := store.Copy()     // for the next one
//
// What is stored outlives the instance, and whoever gave it to the instance. So only such kinds are taken
// as lead nowhere: memory without a name (memfd_create(2)), and connections that came to the service's own
// sockets. It does not know who stores, nor when something is given back.
package fdstore
