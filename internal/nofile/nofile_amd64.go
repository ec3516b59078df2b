package nofile

const prlimit64 = 302 // SYS_prlimit64
