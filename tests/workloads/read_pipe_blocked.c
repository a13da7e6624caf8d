// SPDX-License-Identifier: Apache-2.0
//
// A thread in read(2) of an empty pipe gets what is written afterwards; nothing is lost, no EINTR.
#include "victim.h"

static int ends[2];

static void* Reader(void* buffer) { return (void*)SYS(read(ends[0], buffer, 100)); }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread reader;
  char buffer[100] = {0};
  SYS(pipe(ends));
  VictimSpawn(&reader, Reader, buffer);
  VictimAwaitBlocked(reader.tid, SYS_read);
  VictimReady();
  SYS(write(ends[1], "hello", 5));
  CHECK_EQ((intptr_t)VictimJoin(&reader), 5);
  CHECK_STR(buffer, "hello");
  VictimPass();
}
