#include "textflag.h"

// func int80(number, a, b, c uintptr) (r int32)
// A system call through the 32-bit gate: number in EAX, arguments in EBX, ECX, EDX.
TEXT ·int80(SB), NOSPLIT, $0-36
	MOVQ number+0(FP), AX
	MOVQ a+8(FP), BX
	MOVQ b+16(FP), CX
	MOVQ c+24(FP), DX
	INT  $0x80
	MOVL AX, r+32(FP)
	RET

// func int81()
// A gate that no Linux has: the fault of a machine without the 32-bit one.
TEXT ·int81(SB), NOSPLIT, $0-0
	INT  $0x81
	RET
