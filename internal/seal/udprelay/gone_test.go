package udprelay

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// Clients that come, ask and go do not keep others out.
func TestGoneClientsMakeRoom(t *testing.T) {
	defer func(before time.Duration) { silence = before }(silence)
	silence = time.Hour
	for kind, name := range map[string]string{"path": filepath.Join(t.TempDir(), "client"), "abstract": own + "gone"} {
		t.Run(kind, func(t *testing.T) {
			const most = 40
			f, conn := hostSocket(t, "unixgram", own+"gone-host-"+kind)
			d := openRelay(t, newOwner(t), f, Options{Expire: time.Hour})
			d.flows.most = most
			run(t, d)
			inner := service(t, d)
			host := conn.LocalAddr().String()
			stays := client(t, "unixgram", name+"-stays")
			exchange(t, stays, conn.LocalAddr(), inner)
			for i := range 5 * most {
				text := fmt.Sprint("question ", i)
				c := dialUnix(t, fmt.Sprint(name, i), host)
				tell(t, c, text)
				if got, _ := receive(t, inner); got != text {
					t.Fatalf("the service received %q, not %q", got, text)
				}
				_ = c.Close()
			}
			exchange(t, stays, conn.LocalAddr(), inner)
		})
	}
}
