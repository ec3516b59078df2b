package stand

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

// BulkSize is how many bytes /bulk answers with.
const BulkSize = 16 << 20

// IsService reports whether this process shall be the web server of a
// measurement: bench serve [ADDRESS].
func IsService() bool { return len(os.Args) >= 2 && os.Args[1] == "serve" }

// Serve is a small web server at the address of the command line, or at the
// socket that it was passed as descriptor 3. It never returns.
func Serve() {
	var l net.Listener
	var err error
	if os.Getenv("LISTEN_FDS") != "" {
		l, err = net.FileListener(os.NewFile(3, "passed"))
	} else {
		l, err = net.Listen("tcp", os.Args[2])
	}
	if err != nil {
		log.Fatal(err)
	}
	bulk := make([]byte, BulkSize)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	mux.HandleFunc("/bulk", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bulk) })
	mux.HandleFunc("/calls", serveCalls)
	log.Fatal(http.Serve(l, mux))
}
