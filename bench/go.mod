module activator/bench

go 1.26.0

require (
	activator v0.0.0
	golang.org/x/sys v0.49.0
)

replace activator => ../
