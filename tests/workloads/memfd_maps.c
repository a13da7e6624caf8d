// SPDX-License-Identifier: Apache-2.0
//
// A sealed memfd, mapped shared and private: content, copied page, seals and name.
#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  const size_t size = 16 * kPage;
  const int fd = (int)SYS(memfd_create("victim memfd", MFD_ALLOW_SEALING | MFD_CLOEXEC));
  SYS(ftruncate(fd, (off_t)size));
  char* shared = VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  VictimFill(shared, size, 9);
  char* private = VictimMap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  VictimFill(private + 3 * kPage, kPage, 10);
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  SYS(fcntl(fd, F_ADD_SEALS, seals));
  VictimReady();
  VictimVerify(shared, size, 9);
  VictimVerify(private + 3 * kPage, kPage, 10);
  CHECK(memcmp(private, shared, 3 * kPage) == 0, "private pages are not the object's");
  shared[5 * kPage] = 'q';
  CHECK_EQ(private[5 * kPage], 'q');
  CHECK_EQ(fcntl(fd, F_GET_SEALS), seals);
  CHECK_ERRNO(ftruncate(fd, 0), EPERM);
  CHECK_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
  CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  char byte = 0;
  CHECK_EQ(pread(fd, &byte, 1, 5 * kPage), 1);
  CHECK_EQ(byte, 'q');
  CHECK(strstr(VictimFindVma(shared).name, "victim memfd") != NULL, "name is %s", VictimFindVma(shared).name);
  VictimPass();
}
