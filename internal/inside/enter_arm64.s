#include "textflag.h"

#define SYS_clone 220
#define SYS_exit 93

// func clone(flags uintptr, calls *call) (pid int)
//
// No instruction of the child touches the stack, which is its parent's.
TEXT ·clone(SB),NOSPLIT,$0-24
	MOVD	flags+0(FP), R0
	MOVD	calls+8(FP), R19
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$SYS_clone, R8
	SVC
	CBZ	R0, next
	MOVD	R0, pid+16(FP)
	RET

next:
	MOVD	0(R19), R8
	CMN	$1, R8
	BEQ	done
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	SVC
	MOVD	R0, 32(R19)
	TBNZ	$63, R0, done
	ADD	$40, R19
	JMP	next

done:
	MOVD	$0, R0
	MOVD	$SYS_exit, R8
	SVC
	BRK	$0
