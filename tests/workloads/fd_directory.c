// SPDX-License-Identifier: Apache-2.0
//
// A directory descriptor in the middle of a listing: the rest comes, once; openat works.
#include <dirent.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  enum { kFiles = 300 };
  SYS(mkdir(VictimPath("dir"), 0755));
  for (int i = 0; i < kFiles; i++) {
    char name[32];
    snprintf(name, sizeof(name), "dir/file%03d", i);
    SYS(close(VictimFile(name, 0, 0)));
  }
  DIR* stream = opendir(VictimPath("dir"));
  CHECK(stream != NULL, "opendir: %s", strerror(errno));
  bool seen[kFiles] = {false};
  int count = 0;
  struct dirent* entry;
  // libc reads ahead; a second, bare descriptor has its position inside the kernel only.
  const int bare = (int)SYS(open(VictimPath("dir"), O_RDONLY | O_DIRECTORY));
  char buffer[2048];
  long bare_bytes = SYS(syscall(SYS_getdents64, bare, buffer, sizeof(buffer)));
  for (int i = 0; i < 100; i++) {
    entry = readdir(stream);
    if (sscanf(entry->d_name, "file%d", &count) == 1) seen[count] = true;
  }
  const off_t position = lseek(bare, 0, SEEK_CUR);
  VictimReady();
  CHECK_EQ(lseek(bare, 0, SEEK_CUR), position);
  while ((entry = readdir(stream)) != NULL) {
    if (sscanf(entry->d_name, "file%d", &count) != 1) continue;
    CHECK(!seen[count], "%s came twice", entry->d_name);
    seen[count] = true;
  }
  for (int i = 0; i < kFiles; i++) CHECK(seen[i], "file%03d did not come", i);
  long more, total = bare_bytes;
  while ((more = SYS(syscall(SYS_getdents64, bare, buffer, sizeof(buffer)))) > 0) total += more;
  CHECK_EQ(total, 302 * 32 - 2 * 8);  // 300 names of 7 letters, "." and ".."
  SYS(close((int)SYS(openat(bare, "file007", O_RDONLY))));
  VictimPass();
}
