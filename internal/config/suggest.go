package config

import (
	"fmt"
	"strings"
	"unicode"
)

// suggestWord returns `did you mean "x"?` for the word nearest to what was written,
// "" when none is near.
func suggestWord(written string, words []string) string {
	best, nearest := "", max(1, len(written)/3)+1
	for _, w := range words {
		if d := editDistance(written, w); d < nearest {
			best, nearest = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// editDistance is how many letters have to be added, removed, changed or swapped with the next one
// to make b of a.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// snakeCase turns a directive of a unit file into the form of our keys:
// "NoDelay" into "no_delay", "CPUWeight" into "cpu_weight".
func snakeCase(word string) string {
	word = strings.ReplaceAll(word, "IPv6", "Ipv6")
	var b strings.Builder
	for i, r := range word {
		begins := i > 0 && !unicode.IsUpper(rune(word[i-1])) && word[i-1] != '_'
		ends := i > 0 && word[i-1] != '_' && i+1 < len(word) && unicode.IsLower(rune(word[i+1]))
		if unicode.IsUpper(r) && (begins || ends) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// unitFile are directives of unit files, in our form, whose keys have another
// name here.
var unitFile = map[string]string{
	"exec_start":               "exec",
	"listen_stream":            "listen",
	"listen_datagram":          "listen",
	"listen_sequential_packet": "listen",
	"listen_fifo":              "listen",
	"file_descriptor_name":     "name",
	"timeout_start_sec":        "start_timeout",
	"timeout_stop_sec":         "stop_timeout",
	"timeout_sec":              "start_timeout",
	"restart_sec":              "restart_delay",
	"restart_max_delay_sec":    "restart_max_delay",
	"watchdog_sec":             "watchdog",
	"kill_signal":              "stop_signal",
	"keep_alive_time_sec":      "keep_alive_time",
	"keep_alive_interval_sec":  "keep_alive_interval",
	"defer_accept_sec":         "defer_accept",
	"standard_output":          "stdout",
	"standard_error":           "stderr",
	"limit_nofile":             "limits",
	"capability_bounding_set":  "capabilities",
	"ambient_capabilities":     "capabilities",
	"root_directory":           "root",
	"read_write_paths":         "writable",
	"bind_paths":               "writable",
	"bind_read_only_paths":     "read_only",
	"temporary_file_system":    "tmpfs",
	"private_network":          "network",
	"system_call_filter":       "syscalls",
	"u_mask":                   "umask",
}
