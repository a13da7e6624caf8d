// SPDX-License-Identifier: Apache-2.0
//
// A perf event cannot be captured: refused, and it counts on.
#include <linux/perf_event.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                       .size = sizeof(attributes),
                                       .config = PERF_COUNT_SW_TASK_CLOCK,
                                       .exclude_kernel = 1};
  const int fd = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) VictimSkip("perf_event_open: %s", strerror(errno));
  VictimReady();
  uint64_t before = 0, after = 0;
  CHECK_EQ(SYS(read(fd, &before, 8)), 8);
  for (volatile int i = 0; i < 1000000; i++) {
  }
  CHECK_EQ(SYS(read(fd, &after, 8)), 8);
  CHECK(after > before, "the counter stands still");
  VictimPass();
}
