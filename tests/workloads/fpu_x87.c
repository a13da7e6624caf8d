// SPDX-License-Identifier: Apache-2.0
//
// The x87 register stack, its control word and its status, in user mode and in a system call.
#include "hold.inc"
#include "victim.h"

static void* Hold(void* fd) {
  const unsigned short control = 0x0e7f;  // round up, double precision
  unsigned short control_after = 0, status = 0;
  double values[3] = {1.25, -7.5, 1e300};
  double got[3];
  __asm__ volatile("fninit\n\t fldcw %[control]\n\t fldl 16(%[in])\n\t fldl 8(%[in])\n\t fldl (%[in])\n\t"  //
                   HOLD_ASM
                   "fnstcw %[control_after]\n\t fnstsw %[status]\n\t"
                   "fstpl (%[out])\n\t fstpl 8(%[out])\n\t fstpl 16(%[out])\n\t fninit\n\t"
                   : HOLD_OUTPUTS, [control_after] "=m"(control_after), [status] "=m"(status)
                   : HOLD_INPUTS((intptr_t)fd), [control] "m"(control), [in] "r"(values), [out] "r"(got)
                   : HOLD_CLOBBERS, "st");
  CHECK_EQ(control_after, control);
  CHECK_EQ(status >> 11 & 7, 5);  // three values on the stack
  for (int i = 0; i < 3; i++) CHECK(got[i] == values[i], "st(%d) is %g, not %g", i, got[i], values[i]);
  return NULL;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  HoldInBothWays(Hold);
  VictimPass();
}
