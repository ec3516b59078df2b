// Package listen owns the sockets that services are activated by, from bind to
// unlink: it turns addresses into bound sockets, watches them without taking
// anything off their queues, mends what a service did to them and turns waiting
// clients away.
//
//	addr, err := spec.ParseAddress("tcp://127.0.0.1:3000")
//	sockets, err := listen.OpenAll(ctx, []spec.Socket{{Address: addr, Name: "echo"}}, listen.Means{})
//	watcher, err := listen.NewWatcher(log)
//	go watcher.Run(ctx)
//	watcher.WaitReadable(sockets[0], func() { ... })
//
// It never accepts or reads, except in [Socket.RefuseClients] and [Socket.Accept].
//
// The files, from the top; each uses only those of its group and of the groups below:
//
//	watch examine ability overlap           when to act; what would go wrong, or is missing here
//	mend mendnode accept refuse             what is done with an open socket
//	activity waiting                        what is seen of its clients
//	socket                                  its life
//	interest nodewatch tree                 what is watched of it
//	open fifo links bind seal family        how it comes to be
//	node stale place owner beneath          what stands at a path
//	errors holder diag pending              what the kernel tells and gives
//	state thread retry control
package listen
