package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// mission is what a probe has: the request, the inherited sockets, the client
// that it talks to.
type mission struct {
	wire.Request
	sockets map[string]int // by the names of package net, tcp4 to unixgram; and abstractgram, fifo
	control int            // the connection to the harness, -1 without
	pending []byte         // read from control, not a whole line yet
	rights  []int          // descriptors that came with the last line
	proof   string         // the secret
	sent    string         // the socket that a datagram was sent by; "": none
}

// inherited finds out what kinds of sockets we were started with: names do not
// come through every starter.
func inherited() map[string]int {
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	found := make(map[string]int)
	for fd := 3; fd < 3+n; fd++ {
		domain, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		kind, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if err1 != nil || err2 != nil {
			var stat unix.Stat_t
			if err := unix.Fstat(fd, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
				found["fifo"] = fd
			}
			continue
		}
		name := map[[2]int]string{
			{unix.AF_INET, unix.SOCK_STREAM}: "tcp4", {unix.AF_INET6, unix.SOCK_STREAM}: "tcp6",
			{unix.AF_INET, unix.SOCK_DGRAM}: "udp4", {unix.AF_INET6, unix.SOCK_DGRAM}: "udp6",
			{unix.AF_UNIX, unix.SOCK_STREAM}: "unix", {unix.AF_UNIX, unix.SOCK_DGRAM}: "unixgram",
		}[[2]int{domain, kind}]
		if address, err := unix.Getsockname(fd); err == nil && name == "unixgram" && strings.HasPrefix(address.(*unix.SockaddrUnix).Name, "@") {
			name = "abstractgram"
		}
		found[name] = fd
	}
	return found
}

// socket is an inherited socket.
func (m *mission) socket(name string) (int, error) {
	fd, ok := m.sockets[name]
	if !ok {
		return -1, errors.New("no " + name + " socket inherited")
	}
	return fd, nil
}

// serve takes one client, does what it asks for and ends.
func (m *mission) serve() int {
	fd, err := m.accepted("unix")
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		return 1
	}
	m.control = fd
	return m.obey()
}

// obey does what the client at the control connection asks for.
func (m *mission) obey() int {
	line, err := m.line()
	if err == nil {
		err = json.Unmarshal(line, &m.Request)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder: request:", err)
		return 1
	}
	for _, p := range append(probes(), serveMode) {
		if p.Name == m.Probe {
			result := m.try(p)
			m.mark()
			m.say(wire.Message{Result: result})
			return 0
		}
	}
	m.say(wire.Message{Result: &wire.Result{Probe: m.Probe, How: "no such probe"}})
	return 1
}

// mark sends a client something by the socket that the probe sent a datagram to another address by:
// a carrier of datagrams has then carried both, or never will.
func (m *mission) mark() {
	fd, there := m.sockets[m.sent]
	if !there || readable(fd, waitTimeout) != nil {
		return
	}
	_, client, err := unix.Recvfrom(fd, make([]byte, 512), unix.MSG_DONTWAIT)
	if err == nil && client != nil && unix.Sendto(fd, []byte("marker\n"), 0, client) == nil {
		_, _ = m.ask("marked", m.sent)
	}
}

func (m *mission) say(message wire.Message) {
	text, _ := json.Marshal(message)
	_, _ = unix.Write(m.control, append(text, '\n'))
}

// ask asks the harness for something. Without one there is no colluding client.
func (m *mission) ask(what, argument string) (string, error) {
	if m.control < 0 {
		return "", errors.New("no client to ask for " + what)
	}
	m.say(wire.Message{Ask: what, Argument: argument})
	line, err := m.line()
	if err != nil {
		return "", at("ask for "+what, err)
	}
	var reply wire.Reply
	err = json.Unmarshal(line, &reply)
	return reply.Answer, err
}

// line reads a line of the harness, and keeps what descriptors come with it.
func (m *mission) line() ([]byte, error) {
	for {
		if line, rest, ok := bytes.Cut(m.pending, []byte{'\n'}); ok {
			m.pending = rest
			return line, nil
		}
		data, oob := make([]byte, 4096), make([]byte, 256)
		n, oobn, _, _, err := unix.Recvmsg(m.control, data, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, errors.Join(err, errors.New("the client is gone"))
		}
		m.pending = append(m.pending, data[:n]...)
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for i := range messages {
			if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
				m.rights = fds
			}
		}
	}
}

// accepted accepts a connection on an inherited socket. A service waits for its
// first client for as long as it lives, for others a moment.
func (m *mission) accepted(name string) (int, error) {
	listener, err := m.socket(name)
	if err != nil {
		return -1, err
	}
	if err := readable(listener, waitTimeout); err != nil {
		return -1, at("no "+name+" client", err)
	}
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	return fd, at("accept", err)
}

// readable waits for fd for so many seconds.
func readable(fd, seconds int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, seconds*1000)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			return nil
		}
	}
}

// bounded gives fd's blocking calls an end.
func bounded(fd int) {
	limit := unix.Timeval{Sec: waitTimeout}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
}

// exchange shows a witness that we are connected: it gets the nonce and answers
// with the secret.
func (m *mission) exchange(fd int) (string, error) {
	if _, err := unix.Write(fd, []byte(m.Nonce+"\n")); err != nil {
		return "", at("write", err)
	}
	return m.hear(fd)
}

// hear reads the witness's answer.
func (m *mission) hear(fd int) (string, error) {
	if err := readable(fd, waitTimeout); err != nil {
		return "", at("answer", err)
	}
	answer := make([]byte, 256)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return "", at("read", err)
	}
	m.proof = string(bytes.TrimSpace(answer[:n]))
	return "exchanged bytes with a server of the host", nil
}
