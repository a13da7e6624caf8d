// SPDX-License-Identifier: Apache-2.0
//
// All resource limits.
#include <sys/resource.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct rlimit before[RLIM_NLIMITS], now;
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    SYS(getrlimit(i, &before[i]));
    // Lower each a little, in a way that hurts neither this program nor whoever works on it.
    rlim_t wanted = 1ull << 46;
    if (i == RLIMIT_CPU || i == RLIMIT_RTTIME || i == RLIMIT_NPROC || i == RLIMIT_SIGPENDING) wanted = 20000;
    if (i == RLIMIT_NOFILE) wanted = 900;
    if (i == RLIMIT_NICE || i == RLIMIT_RTPRIO) wanted = 5;
    if (i == RLIMIT_STACK || i == RLIMIT_CORE || i == RLIMIT_MEMLOCK) wanted = 5 << 20;
    if (wanted + 1 < before[i].rlim_max) before[i].rlim_max = wanted + 1;
    if (wanted < before[i].rlim_max) before[i].rlim_cur = wanted;
    if (before[i].rlim_cur > before[i].rlim_max) before[i].rlim_cur = before[i].rlim_max;
    SYS(setrlimit(i, &before[i]));
  }
  VictimReady();
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    SYS(getrlimit(i, &now));
    CHECK(now.rlim_cur == before[i].rlim_cur && now.rlim_max == before[i].rlim_max,
          "limit %d is %lu, %lu, not %lu, %lu", i, (unsigned long)now.rlim_cur, (unsigned long)now.rlim_max,
          (unsigned long)before[i].rlim_cur, (unsigned long)before[i].rlim_max);
  }
  VictimPass();
}
