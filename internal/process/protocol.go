package process

// We and the child talk over one stream socketpair. End of file says that the other side is
// gone; the child's end closes at execve. A child that is a call list sends:
const (
	msgSeparate = 'u' // it has descriptors of its own; and gets, with msgFiles, those that are lent
	msgListener = 'w' // with it comes the filter's listener
	msgReady    = 'r' // everything is built; waiting for msgGo
	msgError    = 'e' // a call has failed; it waits for the end of file
)

// It receives:
const (
	msgFiles = 'f' // with it come descriptors
	msgGo    = 'g' // with it may come the client's socket
)

// A reaper receives its plan first (its length as 4 bytes, then what codec writes). It
// sends msgReady, too, msgError with a StepError as JSON, and
const (
	msgClient  = 'h' // heard before msgGo: with it comes a socket, and after it environment, as codec writes it
	msgRunning = 'k' // execve succeeded in a child, and the reaper keeps the socket
)
