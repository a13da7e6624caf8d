// SPDX-License-Identifier: Apache-2.0
//
// A file in every way in which one can be needed: read, written, appended to, mapped privately and shared,
// watched, a FIFO, a folder, the working directory.
#include <sys/inotify.h>

#include "victim.h"

static int Open(const char* name, int flags) { return (int)SYS(open(VictimPath(name), flags)); }

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  static const char* const kFiles[] = {"read", "write", "append", "private", "shared", "watched"};
  for (int i = 0; i < 6; i++) SYS(close(VictimFile(kFiles[i], 2 * kPage, 50 + (uint64_t)i)));
  SYS(mkfifo(VictimPath("fifo"), 0600));
  SYS(mkdir(VictimPath("folder"), 0700));
  SYS(mkdir(VictimPath("cwd"), 0700));
  const int reader = Open("read", O_RDONLY), writer = Open("write", O_WRONLY),
            log = Open("append", O_WRONLY | O_APPEND);
  const int private_fd = Open("private", O_RDONLY), shared_fd = Open("shared", O_RDWR);
  char* private = VictimMap(NULL, 2 * kPage, PROT_READ, MAP_PRIVATE, private_fd, 0);
  char* shared = VictimMap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
  SYS(close(private_fd));
  SYS(close(shared_fd));
  const int watcher = (int)SYS(inotify_init1(IN_NONBLOCK));
  SYS(inotify_add_watch(watcher, VictimPath("watched"), IN_MODIFY));
  const int fifo = Open("fifo", O_RDWR), folder = Open("folder", O_RDONLY | O_DIRECTORY);
  SYS(chdir(VictimPath("cwd")));
  VictimReady();
  char content[2 * kPage];
  CHECK_EQ(SYS(read(reader, content, sizeof(content))), (long)sizeof(content));
  VictimVerify(content, sizeof(content), 50);
  VictimVerify(private, 2 * kPage, 53);
  VictimVerify(shared, 2 * kPage, 54);
  SYS(write(writer, "w", 1));
  SYS(write(log, "a", 1));
  SYS(write(fifo, "f", 1));
  CHECK_EQ(SYS(read(fifo, content, 1)), 1);
  SYS(fcntl(folder, F_GETFD));
  VictimPass();
}
