package config

import (
	"strconv"

	"activator/internal/spec"
)

// checkAccept reports what does not fit accept or handover = "stdio".
func (p *parsed) checkAccept() {
	s := &p.service
	stdio := s.Handover == spec.Stdio
	if s.Accept && s.Handover != spec.FDs && !stdio {
		p.addError(p.given["service.accept"].at, "service.accept", "has no meaning here: handover is "+strconv.Quote(string(s.Handover)), "")
	}
	if v, given := p.given["service.notify"]; given && s.Accept && s.Notify {
		p.addError(v.at, "service.notify", "has no meaning here: accept is true, so each instance has its client already", "")
	}
	if s.Container != nil && s.Accept {
		p.addError(p.given["service.accept"].at, "service.accept", "true has no meaning here: a container is started once, not for each client", "")
	} else if s.Container != nil && stdio {
		p.addError(p.given["service.handover"].at, "service.handover", `"stdio" has no meaning here: a container gets its sockets as descriptors`, "")
	}
	if !stdio || s.Accept {
		return
	}
	for i, c := range p.claims {
		switch {
		case isFIFO(c.Address):
			p.addError(c.at, "socket.listen", c.String()+" cannot be stdin and stdout: nobody would read what the program writes", "")
		case i > 0:
			p.addError(c.at, "socket.listen", `a second socket, but handover = "stdio" passes one`, "accept = true passes the connections of any number of sockets; else give each socket a service of its own")
		}
	}
}
