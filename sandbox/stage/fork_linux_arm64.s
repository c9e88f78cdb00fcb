#include "textflag.h"

// func forkRun(args *cloneArgs, size uintptr, report *report, first *instruction) uintptr
//
// R19: instruction, R20: report, R21: result of the instruction before, R22: its
// flags. A system call changes R0 only, and the child uses no stack.
TEXT ·forkRun(SB), NOSPLIT, $0-40
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD report+16(FP), R20
	MOVD first+24(FP), R19
	MOVD $435, R8 // clone3
	SVC
	CBZ  R0, next
	MOVD R0, ret+32(FP)
	RET

next:
	MOVD 0(R19), R8
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	MOVD 56(R19), R22
	TBZ  $1, R22, call // on the result before
	MOVD R21, R0

call:
	SVC
	CMN  $4095, R0
	BCS  failed
	TBZ  $2, R22, done // a fork
	CBNZ R0, end

done:
	MOVD R0, R21
	ADD  $64, R19
	B    next

failed:
	TBNZ $0, R22, done // optional
	NEG  R0, R0
	LSR  $32, R22
	MOVW R22, 8(R20)
	MOVW R0, 12(R20)
	MOVD 0(R20), R0
	ADD  $8, R20, R1
	MOVD $8, R2  // reportSize
	MOVD $64, R8 // write
	SVC

end:
	MOVD $127, R0
	MOVD $94, R8 // exit_group
	SVC
	B    end
