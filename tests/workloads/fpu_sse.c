// SPDX-License-Identifier: Apache-2.0
//
// xmm0 to xmm15 and MXCSR, in user mode and in a system call.
#include "hold.inc"
#include "victim.h"

#define EACH(op, a, b)                                                                            \
  op(0, a, b) op(1, a, b) op(2, a, b) op(3, a, b) op(4, a, b) op(5, a, b) op(6, a, b) op(7, a, b) \
      op(8, a, b) op(9, a, b) op(10, a, b) op(11, a, b) op(12, a, b) op(13, a, b) op(14, a, b) op(15, a, b)
#define LOAD(n, a, b) "movups 16*" #n "(%[in]), %%xmm" #n "\n\t"
#define STORE(n, a, b) "movups %%xmm" #n ", 16*" #n "(%[out])\n\t"

static void* Hold(void* fd) {
  unsigned char in[16 * 16], out[16 * 16] = {0};
  VictimFill(in, sizeof(in), (uint64_t)(intptr_t)fd);
  const uint32_t mxcsr = 0x7f80 | 0x8000, normal = 0x1f80;  // round to zero, flush to zero
  uint32_t mxcsr_after = 0;
  __asm__ volatile(
      "ldmxcsr %[mxcsr]\n\t" EACH(LOAD, , )
          HOLD_ASM EACH(STORE, , ) "stmxcsr %[mxcsr_after]\n\t ldmxcsr %[normal]\n\t"
      : HOLD_OUTPUTS, [mxcsr_after] "=m"(mxcsr_after)
      : HOLD_INPUTS((intptr_t)fd), [mxcsr] "m"(mxcsr), [normal] "m"(normal), [in] "r"(in), [out] "r"(out)
      : HOLD_CLOBBERS, "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  CHECK_EQ(mxcsr_after, mxcsr);
  for (int i = 0; i < 16; i++) CHECK(memcmp(in + 16 * i, out + 16 * i, 16) == 0, "xmm%d changed", i);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  HoldInBothWays(Hold);
  VictimPass();
}
