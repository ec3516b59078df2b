// Package listen owns the sockets that services are activated by, from bind to
// unlink: it turns addresses into bound sockets, watches them without taking
// anything off their queues, mends what a service did to them and turns waiting
// clients away.
//
//	addr, err := spec.ParseAddress("tcp://127.0.0.1:3000")
//	sockets, err := listen.OpenAll([]spec.Socket{{Address: addr, Name: "echo"}}, listen.Means{})
//	watcher, err := listen.NewWatcher(log)
//	go watcher.Run(ctx)
//	watcher.WaitReadable(sockets[0], func() { ... })
//
// It never accepts or reads, except in [Socket.RefuseClients].
package listen
