#include "textflag.h"

#define SYS_clone 56
#define SYS_exit 60

// func clone(flags uintptr, calls *call) (pid int)
//
// No instruction of the child touches the stack, which is its parent's.
TEXT ·clone(SB),NOSPLIT,$0-24
	MOVQ	flags+0(FP), DI
	MOVQ	calls+8(FP), R12
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$SYS_clone, AX
	SYSCALL
	TESTQ	AX, AX
	JZ	next
	MOVQ	AX, pid+16(FP)
	RET

next:
	MOVQ	0(R12), AX
	CMPQ	AX, $-1
	JEQ	done
	MOVQ	8(R12), DI
	MOVQ	16(R12), SI
	MOVQ	24(R12), DX
	SYSCALL
	MOVQ	AX, 32(R12)
	TESTQ	AX, AX
	JLT	done
	ADDQ	$40, R12
	JMP	next

done:
	XORL	DI, DI
	MOVL	$SYS_exit, AX
	SYSCALL
	INT	$3
