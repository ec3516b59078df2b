package sockopt

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestRows(t *testing.T) {
	at := map[[2]int]int{}
	texts := map[string]bool{}
	for i, o := range Table {
		if _, twice := at[[2]int{o.Level, o.Name}]; twice || texts[o.Text] || o.Text == "" {
			t.Errorf("%s: twice", o.Text)
		}
		at[[2]int{o.Level, o.Name}], texts[o.Text] = i, true
		if o.Use&Carried != 0 && (o.Form == Unreadable || o.Form == Persistent || o.Form == Memory || o.Form == Unrestored) {
			t.Errorf("%s is carried, and would not be restored", o.Text)
		}
		if o.Use&Carried == 0 && o.Fresh != 0 {
			t.Errorf("%s is not carried: what is it fresh for", o.Text)
		}
		if o.Use == Refused && o.Form == Unrestored && o.Key == nil {
			t.Errorf("%s: the row says nothing", o.Text)
		}
	}
	for _, pair := range [][2][2]int{
		{{unix.IPPROTO_IP, unix.IP_TOS}, {unix.SOL_SOCKET, unix.SO_PRIORITY}},
		{{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, {unix.IPPROTO_IP, unix.IP_TOS}},
		{{unix.SOL_SOCKET, unix.SO_RCVLOWAT}, {unix.SOL_SOCKET, unix.SO_RCVBUF}},
		{{unix.SOL_SOCKET, unix.SO_RCVBUF}, {unix.SOL_SOCKET, unix.SO_BUF_LOCK}},
	} {
		if at[pair[0]] >= at[pair[1]] {
			t.Errorf("%s stands after %s", Table[at[pair[0]]].Text, Table[at[pair[1]]].Text)
		}
	}
	if last := Table[len(Table)-1]; last.Form != Memory {
		t.Errorf("%s is last", last.Text)
	}
}

// A socket that nobody has set anything on reads what the table says is fresh, and gives
// nothing away.
func TestFresh(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			fd := open(t, kind)
			has := layersOf(fd)
			var buf value
			for i := range Table {
				o := &Table[i]
				if o.Use&Carried == 0 || o.Form == Halved || o.Form == Derived || !has.haveLevel(o) {
					continue
				}
				if value, ok := o.readValue(fd, &buf); ok && !o.isFresh(value) {
					t.Errorf("%s: %v, not %d", o.Text, value, o.Fresh)
				}
			}
			ours := open(t, kind)
			set(t, ours, setting{unix.SOL_SOCKET, unix.SO_RCVBUF, 50000}, prio(3))
			before := RecordState(ours)
			CarryOptions(fd, ours, false)
			if after := RecordState(ours); after != before {
				t.Errorf("%x, now %x", before.record.Value(), after.record.Value())
			}
		})
	}
}
