// SPDX-License-Identifier: Apache-2.0
//
// A device outside of the short list of harmless ones (here /dev/kmsg): refused.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
  if (fd < 0) VictimSkip("/dev/kmsg: %s", strerror(errno));
  VictimReady();
  char text[2048];
  const ssize_t count = read(fd, text, sizeof(text));
  CHECK(count > 0 || errno == EAGAIN || errno == EPIPE, "read: %s", strerror(errno));
  VictimPass();
}
