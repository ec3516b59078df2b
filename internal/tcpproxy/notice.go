package tcpproxy

import (
	"log/slog"
	"time"
)

// noticeEvery is how often the same trouble is logged again.
const noticeEvery = 10 * time.Second

// notice is a trouble that may happen a thousand times a second.
type notice struct {
	next   time.Duration // on the loop's clock; before it nothing is logged
	unsaid int           // times
}

// logLimited logs the trouble, or counts it for the next time.
func (n *notice) logLimited(now time.Duration, log *slog.Logger, text string, args ...any) {
	if now < n.next {
		n.unsaid++
		return
	}
	if n.unsaid > 0 {
		args = append(args, "unsaid", n.unsaid)
	}
	n.next, n.unsaid = now+noticeEvery, 0
	log.Warn(text, args...)
}
