package spec

// Queue is what a program has not read yet, of the datagrams for an address.
type Queue struct {
	There  bool // the program has bound the address
	Unread int  // bytes of its receive buffers
	Room   int  // bytes that the fullest of them may take
	Gone   int  // grows when it has closed a socket
}
