package seccomp

// ours is the machine this binary is for.
var ours = &arm64
