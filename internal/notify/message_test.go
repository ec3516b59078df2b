package notify

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	tests := []struct {
		data string
		want Message
		bad  string // in the error; "": none
	}{
		{"", Message{}, ""},
		{"READY=1", Message{Ready: true}, ""},
		{"READY=1\n", Message{Ready: true}, ""},
		{"READY=1\x00", Message{Ready: true}, ""},
		{"READY=1\nSTATUS=up", Message{Ready: true, HasStatus: true, Status: "up"}, ""},
		{"STATUS=", Message{HasStatus: true}, ""},
		{"STATUS=a=b", Message{HasStatus: true, Status: "a=b"}, ""},
		{"STATUS=first\nSTATUS=second", Message{HasStatus: true, Status: "first"}, ""},
		{"STATUS=\x1b[2Jä\xff\tx\r", Message{HasStatus: true, Status: "\ufffd[2Jä\ufffd\ufffdx\ufffd"}, ""},
		{"STOPPING=1", Message{Stopping: true}, ""},
		{"RELOADING=1\nMONOTONIC_USEC=5", Message{Reloading: true}, ""},
		{"BARRIER=1", Message{Barrier: true}, ""},
		{"EXTEND_TIMEOUT_USEC=5000000", Message{ExtendTimeout: 5 * time.Second}, ""},
		{"EXTEND_TIMEOUT_USEC=18446744073709551615", Message{ExtendTimeout: math.MaxInt64 / 1000 * 1000}, ""},
		{"EXTEND_TIMEOUT_USEC=99999999999999999999999", Message{ExtendTimeout: math.MaxInt64 / 1000 * 1000}, ""},
		{"MAINPID=4711", Message{MainPID: 4711}, ""},
		{"MAINPID=1\nMAINPID=2", Message{MainPID: 1}, ""},
		{"ERRNO=2", Message{Errno: 2}, ""},
		{"ERRNO=0", Message{}, ""},
		{"FDSTORE=1\nFDNAME=x\nFDNAME=y\nX_OURS=1", Message{Store: true, FDName: "x"}, ""},
		{"FDSTOREREMOVE=1\nFDPOLL=0", Message{Remove: true, KeepFDs: true}, ""},
		{"FDPOLL=1", Message{}, ""},
		{"FDSTORE=1\nFDNAME=a:b", Message{Store: true}, "FDNAME=a:b"},
		{"FDNAME=\nFDSTORE=2\nFDPOLL=2", Message{}, "FDPOLL=2"},
		{"WATCHDOG=1", Message{Alive: true}, ""},
		{"WATCHDOG=trigger", Message{Trigger: true}, ""},
		{"WATCHDOG=2", Message{}, "WATCHDOG=2"},
		{"WATCHDOG_USEC=5\nWATCHDOG_USEC=7", Message{HasWatchdog: true, Watchdog: 5 * time.Microsecond}, ""},
		{"WATCHDOG_USEC=0", Message{HasWatchdog: true}, ""},
		{"WATCHDOG_USEC=18446744073709551615", Message{HasWatchdog: true}, ""},
		{"WATCHDOG_USEC=-1", Message{}, "WATCHDOG_USEC=-1"},
		{"BUSERROR=org.freedesktop.DBus.Error.TimedOut\nEXIT_STATUS=0", Message{BusError: "org.freedesktop.DBus.Error.TimedOut", ExitStatus: "0"}, ""},
		{"BUSERROR=\x1b[2J\nEXIT_STATUS=007", Message{BusError: "\ufffd[2J", ExitStatus: "7"}, ""},
		{"EXIT_STATUS=256\nBUSERROR=", Message{}, "EXIT_STATUS=256"},
		{"nonsense\n=\n=1\nready=1\n READY=1", Message{}, ""},
		{"READY=0\nSTOPPING=1", Message{Stopping: true}, "READY=0"},
		{"READY=", Message{}, "READY="},
		{"MAINPID=-1", Message{}, "MAINPID=-1"},
		{"MAINPID=0", Message{}, "MAINPID=0"},
		{"MAINPID=99999999999", Message{}, "MAINPID="},
		{"MAINPID=\x1b[31m", Message{}, "MAINPID=\ufffd[31m"},
		{"EXTEND_TIMEOUT_USEC=soon\nREADY=1", Message{Ready: true}, "EXTEND_TIMEOUT_USEC=soon"},
		{"EXTEND_TIMEOUT_USEC=0", Message{}, "EXTEND_TIMEOUT_USEC=0"},
		{"ERRNO=5000", Message{}, "ERRNO=5000"},
		{"READY=1\x00STOPPING=1", Message{}, "zero byte"},
		{"READY=1\n" + strings.Repeat("x", maxMessage), Message{}, "more than 4096 bytes"},
	}
	for _, tt := range tests {
		got, err := parseMessage([]byte(tt.data))
		if got != tt.want {
			t.Errorf("%q: got %+v", tt.data, got)
		}
		var bad *BadMessage
		if (tt.bad == "") != (err == nil) || err != nil && (!errors.As(err, &bad) || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%q: error %v", tt.data, err)
		}
	}
}

func TestStatusIsLimited(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", maxStatus), strings.Repeat("x", maxStatus+1), strings.Repeat("€", 700), strings.Repeat("\x00\x01"[1:], 3000)} {
		m, err := parseMessage([]byte("STATUS=" + text))
		if err != nil || len(m.Status) > maxStatus || !utf8.ValidString(m.Status) {
			t.Errorf("%d bytes, %v", len(m.Status), err)
		}
		if cut := strings.HasSuffix(m.Status, "..."); cut != (text[0] == 1 || len(text) > maxStatus) {
			t.Errorf("%.20q of %d bytes: %.20q", text, len(text), m.Status)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=up\nMAINPID=7\nEXTEND_TIMEOUT_USEC=1000000\nERRNO=2"))
	f.Add([]byte("BARRIER=1\x00"))
	f.Add([]byte("WATCHDOG=trigger\nWATCHDOG_USEC=100000\nBUSERROR=x\nEXIT_STATUS=255"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMessage(data)
		var bad *BadMessage
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("untyped error %v", err)
		}
		for _, text := range []string{m.Status, m.BusError, m.ExitStatus, errorText(err)} {
			if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
				t.Fatalf("not printable: %q", text)
			}
		}
		if len(m.Status) > maxStatus || m.MainPID < 0 || m.ExtendTimeout < 0 || m.Watchdog < 0 || len(m.BusError) > maxStatus || m.Errno > maxErrno || !m.HasStatus && m.Status != "" {
			t.Fatalf("%+v", m)
		}
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
