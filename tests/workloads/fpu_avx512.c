// SPDX-License-Identifier: Apache-2.0
//
// zmm0 to zmm31 and the mask registers k1 to k7, in user mode and in a system call.
#include "hold.inc"
#include "victim.h"

#define EACH(op)                                                                                        \
  op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15) \
      op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23) op(24) op(25) op(26) op(27) op(28) op(29) \
          op(30) op(31)
#define EACH_MASK(op) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define LOAD(n) "vmovups 64*" #n "(%[in]), %%zmm" #n "\n\t"
#define STORE(n) "vmovups %%zmm" #n ", 64*" #n "(%[out])\n\t"
#define LOAD_MASK(n) "kmovq 2048+8*" #n "(%[in]), %%k" #n "\n\t"
#define STORE_MASK(n) "kmovq %%k" #n ", 2048+8*" #n "(%[out])\n\t"

// The compiler is not told about AVX-512, so it never uses zmm16-31 and k0-7 itself.
static void* Hold(void* fd) {
  unsigned char in[2048 + 64], out[2048 + 64] = {0};
  VictimFill(in, sizeof(in), (uint64_t)(intptr_t)fd);
  __asm__ volatile(EACH(LOAD) EACH_MASK(LOAD_MASK) HOLD_ASM EACH(STORE) EACH_MASK(STORE_MASK) "vzeroupper\n\t"
                   : HOLD_OUTPUTS
                   : HOLD_INPUTS((intptr_t)fd), [in] "r"(in), [out] "r"(out)
                   : HOLD_CLOBBERS, "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                     "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  for (int i = 0; i < 32; i++) CHECK(memcmp(in + 64 * i, out + 64 * i, 64) == 0, "zmm%d changed", i);
  CHECK(memcmp(in + 2048 + 8, out + 2048 + 8, 56) == 0, "a mask register changed");
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) VictimSkip("no AVX-512");
  HoldInBothWays(Hold);
  VictimPass();
}
