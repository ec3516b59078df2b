#include "textflag.h"

#define SYS_exit_group 231

// The offsets of call and head in calllist.go.
#define POSITIVE 56
#define ZERO 64
#define FAILED 72
#define EXPECTED 80
#define RESULT 96
#define AT 0
#define WHERE 8
#define ERRNO 16
#define FAILURE 24
#define CALLS 128

// func clone(number, first, second, third, region uintptr) (pid int)
//
// No instruction of the child touches the stack, which is its parent's.
TEXT ·clone(SB),NOSPLIT,$0-48
	MOVQ	number+0(FP), AX
	MOVQ	first+8(FP), DI
	MOVQ	second+16(FP), SI
	MOVQ	third+24(FP), DX
	MOVQ	region+32(FP), R13
	XORL	R10, R10
	XORL	R8, R8
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, pid+40(FP)
	RET

child:
	LEAQ	CALLS(R13), R12

next:
	MOVQ	R12, AT(R13)
	MOVQ	0(R12), AX
	MOVQ	8(R12), DI
	MOVQ	16(R12), SI
	MOVQ	24(R12), DX
	MOVQ	32(R12), R10
	MOVQ	40(R12), R8
	MOVQ	48(R12), R9
	SYSCALL
	MOVQ	AX, RESULT(R12)
	MOVQ	AX, BX
	NEGQ	BX
	LEAQ	-1(BX), CX
	CMPQ	CX, $4095
	JCS	error
	TESTQ	AX, AX
	JZ	zero
	MOVQ	POSITIVE(R12), R12
	JMP	check

zero:
	MOVQ	ZERO(R12), R12

check:
	TESTQ	R12, R12
	JNZ	next
	XORL	DI, DI
	MOVL	$SYS_exit_group, AX
	SYSCALL
	INT	$3

error:
	CMPQ	BX, $127
	JHI	failed
	BTQ	BX, EXPECTED(R12)
	JCC	failed
	MOVQ	FAILED(R12), R12
	JMP	check

failed:
	CMPQ	WHERE(R13), $0
	JNE	known
	MOVQ	R12, WHERE(R13)
	MOVQ	BX, ERRNO(R13)

known:
	MOVQ	FAILURE(R13), R12
	MOVQ	$0, FAILURE(R13)
	JMP	check
