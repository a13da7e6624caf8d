// SPDX-License-Identifier: Apache-2.0
//
// System calls of all lengths without pause: each either happens once or not at all, wherever it is stopped.
#include "victim.h"

static atomic_bool stop;
static int ends[2];

static void* Writer(void* unused) {
  uint64_t number = 0;
  while (!stop) CHECK_EQ(write(ends[1], &number, 8), (number++, 8));
  SYS(close(ends[1]));
  return unused;
}

static void* Reader(void* unused) {
  uint64_t wanted = 0, got;
  ssize_t count;
  while ((count = SYS(read(ends[0], &got, 8))) == 8) {
    CHECK_EQ(got, wanted);
    wanted++;
  }
  CHECK_EQ(count, 0);
  return unused;
}

static void* Mapper(void* unused) {
  while (!stop) {
    char* memory = VictimAnon(16 * kPage);
    memory[5 * kPage] = 1;
    SYS(mprotect(memory, kPage, PROT_READ));
    SYS(munmap(memory, 16 * kPage));
    CHECK_EQ(getppid() >= 0, 1);
  }
  return unused;
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  struct VictimThread threads[3];
  SYS(pipe(ends));
  VictimSpawn(&threads[0], Writer, NULL);
  VictimSpawn(&threads[1], Reader, NULL);
  VictimSpawn(&threads[2], Mapper, NULL);
  VictimReady();
  VictimSleepMs(50);
  stop = true;
  for (int i = 0; i < 3; i++) VictimJoin(&threads[i]);
  VictimPass();
}
