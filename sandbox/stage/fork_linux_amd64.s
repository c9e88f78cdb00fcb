#include "textflag.h"

// func forkRun(args *cloneArgs, size uintptr, report *report, first *instruction) uintptr
//
// R12: instruction, R13: report, BX: result of the instruction before. A system
// call changes AX, CX and R11 only, and the child uses no stack.
TEXT ·forkRun(SB), NOSPLIT, $0-40
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ report+16(FP), R13
	MOVQ first+24(FP), R12
	MOVQ $435, AX // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ   next
	MOVQ  AX, ret+32(FP)
	RET

next:
	MOVQ  0(R12), AX
	MOVQ  8(R12), DI
	MOVQ  16(R12), SI
	MOVQ  24(R12), DX
	MOVQ  32(R12), R10
	MOVQ  40(R12), R8
	MOVQ  48(R12), R9
	MOVQ  56(R12), CX
	TESTQ $2, CX // on the result before
	JEQ   call
	MOVQ  BX, DI

call:
	SYSCALL
	MOVQ  56(R12), CX
	CMPQ  AX, $-4095
	JCC   failed
	TESTQ $4, CX // a fork
	JEQ   done
	TESTQ AX, AX
	JNE   end

done:
	MOVQ AX, BX
	ADDQ $64, R12
	JMP  next

failed:
	TESTQ $1, CX // optional
	JNE   done
	NEGQ  AX
	SHRQ  $32, CX
	MOVL  CX, 8(R13)
	MOVL  AX, 12(R13)
	MOVQ  0(R13), DI
	LEAQ  8(R13), SI
	MOVQ  $8, DX // reportSize
	MOVQ  $1, AX // write
	SYSCALL

end:
	MOVQ $127, DI
	MOVQ $231, AX // exit_group
	SYSCALL
	JMP  end
