package listen

import (
	"net"
	"os"
	"testing"

	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// A relay asks who has sent: of the datagram that it is made for, too.
func TestRelayedTellsWhoSends(t *testing.T) {
	r := &relays{t: t}
	s := openWith(t, "unixgram://"+t.TempDir()+"/g", spec.Relayed, r.means())
	c, err := net.Dial("unixgram", s.spec.Address.Path)
	if err == nil {
		_, err = c.Write([]byte("first"))
		c.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	err = control(s.file, func(fd int) error {
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 10), oob, 0)
		oob = oob[:n]
		return err
	})
	messages, bad := unix.ParseSocketControlMessage(oob)
	if err != nil || bad != nil || len(messages) != 1 {
		t.Fatalf("%v, %v, %v", messages, err, bad)
	}
	if ucred, err := unix.ParseUnixCredentials(&messages[0]); err != nil || int(ucred.Pid) != os.Getpid() {
		t.Errorf("%+v, %v", ucred, err)
	}
}
