// SPDX-License-Identifier: Apache-2.0
//
// A thread in write(2) of more than a pipe holds: all bytes arrive once and in order.
#include "victim.h"

enum { kSize = 300000 };
static int ends[2];
static char data[kSize], got[kSize];

// write(2) may come back short when it is interrupted after it wrote something (signal(7)).
static void* Writer(void* unused) {
  size_t done = 0;
  while (done < kSize) done += (size_t)SYS(write(ends[1], data + done, kSize - done));
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread writer;
  VictimFill(data, kSize, 60);
  SYS(pipe(ends));
  VictimSpawn(&writer, Writer, NULL);
  VictimAwaitBlocked(writer.tid, SYS_write);
  VictimReady();
  for (size_t done = 0; done < kSize;) done += (size_t)SYS(read(ends[0], got + done, kSize - done));
  VictimJoin(&writer);
  VictimVerify(got, kSize, 60);
  VictimPass();
}
