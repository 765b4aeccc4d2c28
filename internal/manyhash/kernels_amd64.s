#include "textflag.h"

// Kernels of BLAKE3's compression function, one message per lane. The argument is a group (hasher.go):
//
//	   0  cv       8 words, each of 16 lanes
//	 512  block    16 lanes of 64 bytes
//	1536  counter  16 lanes
//	1600  length   16 lanes
//	1664  flags    16 lanes
//
// The state is v0..v15 as in the paper (2.2), a vector for each word; the new chaining value is v[i] ^ v[i+8].

// byte offsets of the lanes' blocks
DATA strides<>+0(SB)/4, $0
DATA strides<>+4(SB)/4, $64
DATA strides<>+8(SB)/4, $128
DATA strides<>+12(SB)/4, $192
DATA strides<>+16(SB)/4, $256
DATA strides<>+20(SB)/4, $320
DATA strides<>+24(SB)/4, $384
DATA strides<>+28(SB)/4, $448
DATA strides<>+32(SB)/4, $512
DATA strides<>+36(SB)/4, $576
DATA strides<>+40(SB)/4, $640
DATA strides<>+44(SB)/4, $704
DATA strides<>+48(SB)/4, $768
DATA strides<>+52(SB)/4, $832
DATA strides<>+56(SB)/4, $896
DATA strides<>+60(SB)/4, $960
GLOBL strides<>(SB), RODATA|NOPTR, $64

DATA iv<>+0(SB)/4, $0x6A09E667
DATA iv<>+4(SB)/4, $0xBB67AE85
DATA iv<>+8(SB)/4, $0x3C6EF372
DATA iv<>+12(SB)/4, $0xA54FF53A
GLOBL iv<>(SB), RODATA|NOPTR, $16

DATA rot16<>+0(SB)/8, $0x0504070601000302
DATA rot16<>+8(SB)/8, $0x0D0C0F0E09080B0A
DATA rot16<>+16(SB)/8, $0x0504070601000302
DATA rot16<>+24(SB)/8, $0x0D0C0F0E09080B0A
GLOBL rot16<>(SB), RODATA|NOPTR, $32

DATA rot8<>+0(SB)/8, $0x0407060500030201
DATA rot8<>+8(SB)/8, $0x0C0F0E0D080B0A09
DATA rot8<>+16(SB)/8, $0x0407060500030201
DATA rot8<>+24(SB)/8, $0x0C0F0E0D080B0A09
GLOBL rot8<>(SB), RODATA|NOPTR, $32

// a, b, c, d: a column or diagonal of the state; x, y: two words of the message
#define G16(a, b, c, d, x, y) \
	VPADDD x, a, a     \
	VPADDD b, a, a     \
	VPXORD a, d, d     \
	VPRORD $16, d, d   \
	VPADDD d, c, c     \
	VPXORD c, b, b     \
	VPRORD $12, b, b   \
	VPADDD y, a, a     \
	VPADDD b, a, a     \
	VPXORD a, d, d     \
	VPRORD $8, d, d    \
	VPADDD d, c, c     \
	VPXORD c, b, b     \
	VPRORD $7, b, b

#define LOAD16(off, z) \
	KXNORW K1, K1, K1                   \
	VPXORD z, z, z                      \
	VPGATHERDD off(BX)(Z0*1), K1, z

// func compress16(lanes *group)
// Requires: AVX512F
TEXT ·compress16(SB), NOSPLIT, $0-8
	MOVQ lanes+0(FP), AX
	LEAQ 512(AX), BX
	VMOVDQU32 strides<>(SB), Z0
	LOAD16(0, Z16)
	LOAD16(4, Z17)
	LOAD16(8, Z18)
	LOAD16(12, Z19)
	LOAD16(16, Z20)
	LOAD16(20, Z21)
	LOAD16(24, Z22)
	LOAD16(28, Z23)
	LOAD16(32, Z24)
	LOAD16(36, Z25)
	LOAD16(40, Z26)
	LOAD16(44, Z27)
	LOAD16(48, Z28)
	LOAD16(52, Z29)
	LOAD16(56, Z30)
	LOAD16(60, Z31)
	VMOVDQU32 0(AX), Z0
	VMOVDQU32 64(AX), Z1
	VMOVDQU32 128(AX), Z2
	VMOVDQU32 192(AX), Z3
	VMOVDQU32 256(AX), Z4
	VMOVDQU32 320(AX), Z5
	VMOVDQU32 384(AX), Z6
	VMOVDQU32 448(AX), Z7
	VPBROADCASTD iv<>+0(SB), Z8
	VPBROADCASTD iv<>+4(SB), Z9
	VPBROADCASTD iv<>+8(SB), Z10
	VPBROADCASTD iv<>+12(SB), Z11
	VMOVDQU32 1536(AX), Z12
	VPXORD Z13, Z13, Z13
	VMOVDQU32 1600(AX), Z14
	VMOVDQU32 1664(AX), Z15

	// round 1
	G16(Z0, Z4, Z8, Z12, Z16, Z17)
	G16(Z1, Z5, Z9, Z13, Z18, Z19)
	G16(Z2, Z6, Z10, Z14, Z20, Z21)
	G16(Z3, Z7, Z11, Z15, Z22, Z23)
	G16(Z0, Z5, Z10, Z15, Z24, Z25)
	G16(Z1, Z6, Z11, Z12, Z26, Z27)
	G16(Z2, Z7, Z8, Z13, Z28, Z29)
	G16(Z3, Z4, Z9, Z14, Z30, Z31)

	// round 2
	G16(Z0, Z4, Z8, Z12, Z18, Z22)
	G16(Z1, Z5, Z9, Z13, Z19, Z26)
	G16(Z2, Z6, Z10, Z14, Z23, Z16)
	G16(Z3, Z7, Z11, Z15, Z20, Z29)
	G16(Z0, Z5, Z10, Z15, Z17, Z27)
	G16(Z1, Z6, Z11, Z12, Z28, Z21)
	G16(Z2, Z7, Z8, Z13, Z25, Z30)
	G16(Z3, Z4, Z9, Z14, Z31, Z24)

	// round 3
	G16(Z0, Z4, Z8, Z12, Z19, Z20)
	G16(Z1, Z5, Z9, Z13, Z26, Z28)
	G16(Z2, Z6, Z10, Z14, Z29, Z18)
	G16(Z3, Z7, Z11, Z15, Z23, Z30)
	G16(Z0, Z5, Z10, Z15, Z22, Z21)
	G16(Z1, Z6, Z11, Z12, Z25, Z16)
	G16(Z2, Z7, Z8, Z13, Z27, Z31)
	G16(Z3, Z4, Z9, Z14, Z24, Z17)

	// round 4
	G16(Z0, Z4, Z8, Z12, Z26, Z23)
	G16(Z1, Z5, Z9, Z13, Z28, Z25)
	G16(Z2, Z6, Z10, Z14, Z30, Z19)
	G16(Z3, Z7, Z11, Z15, Z29, Z31)
	G16(Z0, Z5, Z10, Z15, Z20, Z16)
	G16(Z1, Z6, Z11, Z12, Z27, Z18)
	G16(Z2, Z7, Z8, Z13, Z21, Z24)
	G16(Z3, Z4, Z9, Z14, Z17, Z22)

	// round 5
	G16(Z0, Z4, Z8, Z12, Z28, Z29)
	G16(Z1, Z5, Z9, Z13, Z25, Z27)
	G16(Z2, Z6, Z10, Z14, Z31, Z26)
	G16(Z3, Z7, Z11, Z15, Z30, Z24)
	G16(Z0, Z5, Z10, Z15, Z23, Z18)
	G16(Z1, Z6, Z11, Z12, Z21, Z19)
	G16(Z2, Z7, Z8, Z13, Z16, Z17)
	G16(Z3, Z4, Z9, Z14, Z22, Z20)

	// round 6
	G16(Z0, Z4, Z8, Z12, Z25, Z30)
	G16(Z1, Z5, Z9, Z13, Z27, Z21)
	G16(Z2, Z6, Z10, Z14, Z24, Z28)
	G16(Z3, Z7, Z11, Z15, Z31, Z17)
	G16(Z0, Z5, Z10, Z15, Z29, Z19)
	G16(Z1, Z6, Z11, Z12, Z16, Z26)
	G16(Z2, Z7, Z8, Z13, Z18, Z22)
	G16(Z3, Z4, Z9, Z14, Z20, Z23)

	// round 7
	G16(Z0, Z4, Z8, Z12, Z27, Z31)
	G16(Z1, Z5, Z9, Z13, Z21, Z16)
	G16(Z2, Z6, Z10, Z14, Z17, Z25)
	G16(Z3, Z7, Z11, Z15, Z24, Z22)
	G16(Z0, Z5, Z10, Z15, Z30, Z26)
	G16(Z1, Z6, Z11, Z12, Z18, Z28)
	G16(Z2, Z7, Z8, Z13, Z19, Z20)
	G16(Z3, Z4, Z9, Z14, Z23, Z29)

	VPXORD Z8, Z0, Z0
	VMOVDQU32 Z0, 0(AX)
	VPXORD Z9, Z1, Z1
	VMOVDQU32 Z1, 64(AX)
	VPXORD Z10, Z2, Z2
	VMOVDQU32 Z2, 128(AX)
	VPXORD Z11, Z3, Z3
	VMOVDQU32 Z3, 192(AX)
	VPXORD Z12, Z4, Z4
	VMOVDQU32 Z4, 256(AX)
	VPXORD Z13, Z5, Z5
	VMOVDQU32 Z5, 320(AX)
	VPXORD Z14, Z6, Z6
	VMOVDQU32 Z6, 384(AX)
	VPXORD Z15, Z7, Z7
	VMOVDQU32 Z7, 448(AX)
	VZEROUPPER
	RET

// The same for 8 lanes of 8 vectors. Words 8 to 11 of the state and the message do not fit into registers: they are on the stack, the
// message from 0 on, the words from 512 on.
#define G8(a, b, c, d, x, y) \
	VPADDD x(SP), a, a       \
	VPADDD b, a, a           \
	VPXOR a, d, d            \
	VPSHUFB Y14, d, d        \
	VPADDD c(SP), d, Y12     \
	VMOVDQU Y12, c(SP)       \
	VPXOR Y12, b, b          \
	VPSRLD $12, b, Y13       \
	VPSLLD $20, b, b         \
	VPOR Y13, b, b           \
	VPADDD y(SP), a, a       \
	VPADDD b, a, a           \
	VPXOR a, d, d            \
	VPSHUFB Y15, d, d        \
	VPADDD c(SP), d, Y12     \
	VMOVDQU Y12, c(SP)       \
	VPXOR Y12, b, b          \
	VPSRLD $7, b, Y13        \
	VPSLLD $25, b, b         \
	VPOR Y13, b, b

#define LOAD8(off, at) \
	VPCMPEQD Y1, Y1, Y1                 \
	VPXOR Y2, Y2, Y2                    \
	VPGATHERDD Y1, off(BX)(Y0*1), Y2    \
	VMOVDQU Y2, at(SP)

// func compress8(lanes *group)
// Requires: AVX2
TEXT ·compress8(SB), NOSPLIT, $640-8
	MOVQ lanes+0(FP), AX
	LEAQ 512(AX), BX
	VMOVDQU strides<>(SB), Y0
	LOAD8(0, 0)
	LOAD8(4, 32)
	LOAD8(8, 64)
	LOAD8(12, 96)
	LOAD8(16, 128)
	LOAD8(20, 160)
	LOAD8(24, 192)
	LOAD8(28, 224)
	LOAD8(32, 256)
	LOAD8(36, 288)
	LOAD8(40, 320)
	LOAD8(44, 352)
	LOAD8(48, 384)
	LOAD8(52, 416)
	LOAD8(56, 448)
	LOAD8(60, 480)
	VMOVDQU 0(AX), Y0
	VMOVDQU 64(AX), Y1
	VMOVDQU 128(AX), Y2
	VMOVDQU 192(AX), Y3
	VMOVDQU 256(AX), Y4
	VMOVDQU 320(AX), Y5
	VMOVDQU 384(AX), Y6
	VMOVDQU 448(AX), Y7
	VPBROADCASTD iv<>+0(SB), Y12
	VMOVDQU Y12, 512(SP)
	VPBROADCASTD iv<>+4(SB), Y12
	VMOVDQU Y12, 544(SP)
	VPBROADCASTD iv<>+8(SB), Y12
	VMOVDQU Y12, 576(SP)
	VPBROADCASTD iv<>+12(SB), Y12
	VMOVDQU Y12, 608(SP)
	VMOVDQU 1536(AX), Y8
	VPXOR Y9, Y9, Y9
	VMOVDQU 1600(AX), Y10
	VMOVDQU 1664(AX), Y11
	VMOVDQU rot16<>(SB), Y14
	VMOVDQU rot8<>(SB), Y15

	// round 1
	G8(Y0, Y4, 512, Y8, 0, 32)
	G8(Y1, Y5, 544, Y9, 64, 96)
	G8(Y2, Y6, 576, Y10, 128, 160)
	G8(Y3, Y7, 608, Y11, 192, 224)
	G8(Y0, Y5, 576, Y11, 256, 288)
	G8(Y1, Y6, 608, Y8, 320, 352)
	G8(Y2, Y7, 512, Y9, 384, 416)
	G8(Y3, Y4, 544, Y10, 448, 480)

	// round 2
	G8(Y0, Y4, 512, Y8, 64, 192)
	G8(Y1, Y5, 544, Y9, 96, 320)
	G8(Y2, Y6, 576, Y10, 224, 0)
	G8(Y3, Y7, 608, Y11, 128, 416)
	G8(Y0, Y5, 576, Y11, 32, 352)
	G8(Y1, Y6, 608, Y8, 384, 160)
	G8(Y2, Y7, 512, Y9, 288, 448)
	G8(Y3, Y4, 544, Y10, 480, 256)

	// round 3
	G8(Y0, Y4, 512, Y8, 96, 128)
	G8(Y1, Y5, 544, Y9, 320, 384)
	G8(Y2, Y6, 576, Y10, 416, 64)
	G8(Y3, Y7, 608, Y11, 224, 448)
	G8(Y0, Y5, 576, Y11, 192, 160)
	G8(Y1, Y6, 608, Y8, 288, 0)
	G8(Y2, Y7, 512, Y9, 352, 480)
	G8(Y3, Y4, 544, Y10, 256, 32)

	// round 4
	G8(Y0, Y4, 512, Y8, 320, 224)
	G8(Y1, Y5, 544, Y9, 384, 288)
	G8(Y2, Y6, 576, Y10, 448, 96)
	G8(Y3, Y7, 608, Y11, 416, 480)
	G8(Y0, Y5, 576, Y11, 128, 0)
	G8(Y1, Y6, 608, Y8, 352, 64)
	G8(Y2, Y7, 512, Y9, 160, 256)
	G8(Y3, Y4, 544, Y10, 32, 192)

	// round 5
	G8(Y0, Y4, 512, Y8, 384, 416)
	G8(Y1, Y5, 544, Y9, 288, 352)
	G8(Y2, Y6, 576, Y10, 480, 320)
	G8(Y3, Y7, 608, Y11, 448, 256)
	G8(Y0, Y5, 576, Y11, 224, 64)
	G8(Y1, Y6, 608, Y8, 160, 96)
	G8(Y2, Y7, 512, Y9, 0, 32)
	G8(Y3, Y4, 544, Y10, 192, 128)

	// round 6
	G8(Y0, Y4, 512, Y8, 288, 448)
	G8(Y1, Y5, 544, Y9, 352, 160)
	G8(Y2, Y6, 576, Y10, 256, 384)
	G8(Y3, Y7, 608, Y11, 480, 32)
	G8(Y0, Y5, 576, Y11, 416, 96)
	G8(Y1, Y6, 608, Y8, 0, 320)
	G8(Y2, Y7, 512, Y9, 64, 192)
	G8(Y3, Y4, 544, Y10, 128, 224)

	// round 7
	G8(Y0, Y4, 512, Y8, 352, 480)
	G8(Y1, Y5, 544, Y9, 160, 0)
	G8(Y2, Y6, 576, Y10, 32, 288)
	G8(Y3, Y7, 608, Y11, 256, 192)
	G8(Y0, Y5, 576, Y11, 448, 320)
	G8(Y1, Y6, 608, Y8, 64, 384)
	G8(Y2, Y7, 512, Y9, 96, 128)
	G8(Y3, Y4, 544, Y10, 224, 416)

	VPXOR 512(SP), Y0, Y0
	VMOVDQU Y0, 0(AX)
	VPXOR 544(SP), Y1, Y1
	VMOVDQU Y1, 64(AX)
	VPXOR 576(SP), Y2, Y2
	VMOVDQU Y2, 128(AX)
	VPXOR 608(SP), Y3, Y3
	VMOVDQU Y3, 192(AX)
	VPXOR Y8, Y4, Y4
	VMOVDQU Y4, 256(AX)
	VPXOR Y9, Y5, Y5
	VMOVDQU Y5, 320(AX)
	VPXOR Y10, Y6, Y6
	VMOVDQU Y6, 384(AX)
	VPXOR Y11, Y7, Y7
	VMOVDQU Y7, 448(AX)
	VZEROUPPER
	RET
