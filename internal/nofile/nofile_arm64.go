package nofile

const prlimit64 = 261 // SYS_prlimit64
