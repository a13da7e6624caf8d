// SPDX-License-Identifier: Apache-2.0
//
// Pipes: capacity, O_NONBLOCK and O_CLOEXEC of each end, duplicates of both ends.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int big[2], plain[2];
  SYS(pipe2(big, O_NONBLOCK | O_CLOEXEC));
  SYS(pipe(plain));
  const int capacity = (int)SYS(fcntl(big[1], F_SETPIPE_SZ, 262144));
  const int reader = (int)SYS(dup(plain[0])), writer = (int)SYS(dup(plain[1]));
  SYS(fcntl(plain[1], F_SETFL, O_NONBLOCK));
  char data[200000], got[200000];
  VictimFill(data, sizeof(data), 78);
  CHECK_EQ(write(big[1], data, sizeof(data)), sizeof(data));
  VictimReady();
  CHECK_EQ(fcntl(big[0], F_GETPIPE_SZ), capacity);
  CHECK_EQ(fcntl(big[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  CHECK_EQ(fcntl(big[1], F_GETFD), FD_CLOEXEC);
  CHECK_EQ(fcntl(plain[0], F_GETFL) & O_NONBLOCK, 0);
  CHECK_EQ(fcntl(writer, F_GETFL) & O_NONBLOCK, O_NONBLOCK);  // same description
  size_t done = 0;
  ssize_t count;
  while ((count = read(big[0], got + done, sizeof(got) - done)) > 0) done += (size_t)count;
  CHECK_EQ(done, sizeof(got));
  VictimVerify(got, sizeof(got), 78);
  SYS(write(writer, "ab", 2));
  CHECK_EQ(read(plain[0], got, 1), 1);
  CHECK_EQ(read(reader, got + 1, 1), 1);
  CHECK(got[0] == 'a' && got[1] == 'b', "duplicates are not one pipe");
  SYS(close(writer));
  SYS(close(plain[1]));
  CHECK_EQ(read(reader, got, 1), 0);
  VictimPass();
}
