#include "funcdata.h"
#include "textflag.h"

// func ticks() uint64
TEXT ·ticks(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, ret+0(FP)
	RET

// func relax()
TEXT ·relax(SB), NOSPLIT, $0-0
	PAUSE
	RET

// func callVDSO(function uintptr) int64
//
// By C's calling convention, with the stack aligned to 16 bytes. R12 is C's to
// preserve, and no register is ours to preserve.
TEXT ·callVDSO(SB), 0, $16-16
	NO_LOCAL_POINTERS
	MOVQ	function+0(FP), AX
	XORL	DI, DI
	MOVQ	SP, R12
	ANDQ	$~15, SP
	CALL	AX
	MOVQ	R12, SP
	MOVQ	AX, ret+8(FP)
	RET
