// Package stand starts what is measured, is its client, and looks at it from
// outside.
//
//	w, err := stand.Open(ctx, "../bin")   // copies of the programs, a folder, our user
//	defer w.Close()                       // ends every process that it started
//	a, err := w.Activator(stand.Self, "[[socket]] ...", "--log-level=debug")
//	took, err := stand.FirstByte(addr)
package stand
