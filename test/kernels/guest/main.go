// Command guest is the first process of a booted kernel and all that runs there
// beside the project's own programs: it lays the file system, becomes root and an
// ordinary user one after the other, tries the plan's steps and writes a record of
// each to the console. As "socat" it is the client of the README's five lines, as
// "guest serve" a program that has never heard of LISTEN_FDS.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"activator/test/kernels/plan"
)

func main() {
	var err error
	switch {
	case filepath.Base(os.Args[0]) == "socat":
		err = talk(os.Args[1:])
	case os.Args[0] == "/init":
		err = enterRoot()
	case os.Args[0] == "machine":
		runMachine()
	case len(os.Args) == 3 && os.Args[1] == "run":
		err = runUser(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve()
	default:
		err = fmt.Errorf("unknown words %q", os.Args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

func readPlan() (p plan.Plan, err error) {
	text, err := os.ReadFile(plan.File)
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(text, &p)
}
