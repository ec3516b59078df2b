// Package advice knows what to write for what a program lacks. It is told what the program says of itself, or what was found
// in a run that was observed.
//
//	hint := advice.ReadLine("open /var/lib/shop/db: no such file or directory", has)
//	p := advice.Propose(conf, found, advice.Run{Failed: true})
//	p.Service // with state_directory = "shop"
//
// It looks at the host's files, and changes nothing.
package advice
