// Package wire is what the escape suite's harness and its intruder say to each
// other: JSON, one value per line, over a unix stream connection to a socket that
// the intruder inherited.
//
// The harness sends a [Request]. The intruder answers with any number of
// [Message]s that ask the harness for something (it waits for one [Reply] each)
// and a last one that carries the [Result].
package wire

// Request is one run of one probe. Everything in it is a help that an attacker
// could guess or have from a colluding client.
type Request struct {
	Probe      string
	Nonce      string            // what a witness has to receive
	Witness    map[string]string // where witnesses listen, in the host's network namespace
	File       string            // a file of the host with the secret in it, not to be seen inside
	HandleType int32             // of File, name_to_handle_at(2)
	Handle     []byte
	Interfaces []string // of the host, without lo
	Key        string   // the description of a key in the starter's session keyring
	Source     string   // of the TCP client: what a poisoned listener is to lose
}

// Message is a line from the intruder: a question, or the result.
type Message struct {
	Ask, Argument string
	Result        *Result
}

// Reply answers a question; descriptors may travel beside it.
type Reply struct {
	Answer string
}

// Answers.
const (
	NoClient = "no client" // to "ready": it could not connect
	GotAll   = "got all"   // to "got": no datagram is missing
)

// Result is what a probe achieved.
type Result struct {
	Probe    string `json:"probe"`
	Achieved bool   `json:"achieved"`
	How      string `json:"how"`             // what it achieved, or the errno and the step
	Proof    string `json:"proof,omitempty"` // the secret, where the probe's witness is one
}

// The witnesses that a probe achieved something, besides the intruder.
const (
	WitnessNonce  = "nonce"  // a server or client of the host saw the nonce
	WitnessSecret = "secret" // the intruder learned what only the host knows
	WitnessNext   = "next"   // a client of the next instance is not served
	WitnessHost   = "host"   // the harness looks at the host afterwards
	WitnessKernel = "kernel" // the return value of the system call itself
)

// Probe describes a probe: a row of the table.
type Probe struct {
	Name    string
	Group   string
	Tries   string // what it does
	Means   string // what "achieved" means
	Witness string
}
