// SPDX-License-Identifier: Apache-2.0
//
// Pipes with one end closed: queued data then end of file; EPIPE without readers.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  int no_writer[2], no_reader[2];
  SYS(pipe(no_writer));
  SYS(pipe(no_reader));
  SYS(write(no_writer[1], "last words", 10));
  SYS(close(no_writer[1]));
  SYS(close(no_reader[0]));
  signal(SIGPIPE, SIG_IGN);
  VictimReady();
  char buffer[32];
  CHECK_EQ(read(no_writer[0], buffer, 32), 10);
  CHECK(memcmp(buffer, "last words", 10) == 0, "queued data changed");
  CHECK_EQ(read(no_writer[0], buffer, 32), 0);
  CHECK_ERRNO(write(no_reader[1], "x", 1), EPIPE);
  VictimPass();
}
