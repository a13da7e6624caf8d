// SPDX-License-Identifier: Apache-2.0
//
// ymm0 to ymm15, in user mode and in a system call.
#include "hold.inc"
#include "victim.h"

#define EACH(op) \
  op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define LOAD(n) "vmovups 32*" #n "(%[in]), %%ymm" #n "\n\t"
#define STORE(n) "vmovups %%ymm" #n ", 32*" #n "(%[out])\n\t"

static void* Hold(void* fd) {
  unsigned char in[16 * 32], out[16 * 32] = {0};
  VictimFill(in, sizeof(in), (uint64_t)(intptr_t)fd);
  __asm__ volatile(EACH(LOAD) HOLD_ASM EACH(STORE) "vzeroupper\n\t"
                   : HOLD_OUTPUTS
                   : HOLD_INPUTS((intptr_t)fd), [in] "r"(in), [out] "r"(out)
                   : HOLD_CLOBBERS, "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                     "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  for (int i = 0; i < 16; i++) CHECK(memcmp(in + 32 * i, out + 32 * i, 32) == 0, "ymm%d changed", i);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (!__builtin_cpu_supports("avx")) VictimSkip("no AVX");
  HoldInBothWays(Hold);
  VictimPass();
}
