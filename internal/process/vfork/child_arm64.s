#include "textflag.h"

#define SYS_exit_group 94

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
	MOVD	number+0(FP), R8
	MOVD	first+8(FP), R0
	MOVD	second+16(FP), R1
	MOVD	third+24(FP), R2
	MOVD	region+32(FP), R20
	MOVD	$0, R3
	MOVD	$0, R4
	SVC
	CBZ	R0, child
	MOVD	R0, pid+40(FP)
	RET

child:
	ADD	$CALLS, R20, R19

next:
	MOVD	R19, AT(R20)
	MOVD	0(R19), R8
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	MOVD	32(R19), R3
	MOVD	40(R19), R4
	MOVD	48(R19), R5
	SVC
	MOVD	R0, RESULT(R19)
	NEG	R0, R21
	SUB	$1, R21, R22
	CMP	$4095, R22
	BLO	error
	CBZ	R0, zero
	MOVD	POSITIVE(R19), R19
	B	check

zero:
	MOVD	ZERO(R19), R19

check:
	CBNZ	R19, next
	MOVD	$0, R0
	MOVD	$SYS_exit_group, R8
	SVC
	BRK	$0

error:
	CMP	$127, R21
	BHI	failed
	LSR	$6, R21, R22
	LSL	$3, R22, R22
	ADD	R19, R22, R22
	MOVD	EXPECTED(R22), R22
	LSR	R21, R22, R22
	TBZ	$0, R22, failed
	MOVD	FAILED(R19), R19
	B	check

failed:
	MOVD	WHERE(R20), R22
	CBNZ	R22, known
	MOVD	R19, WHERE(R20)
	MOVD	R21, ERRNO(R20)

known:
	MOVD	FAILURE(R20), R19
	MOVD	ZR, FAILURE(R20)
	B	check
