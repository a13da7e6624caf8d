// SPDX-License-Identifier: Apache-2.0
//
// First process of a guest whose root disk is virtio, which Debian's cloud kernel has as modules: loads /modules/N.ko
// in the order of N, and goes on from /dev/vda. (The stock kernel has NVMe built in, but a VM with NVMe cannot be saved.)
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void Fail(const char* what) {
  printf("initrd: %s: %s\n", what, strerror(errno));
  sleep(1);
  exit(1);  // of pid 1: the kernel panics, and with it QEMU ends
}

int main(void) {
  for (int i = 0;; i++) {
    char path[64];
    snprintf(path, sizeof(path), "/modules/%d.ko", i);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) break;
    if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST) Fail(path);
    close(fd);
  }
  mkdir("/dev", 0755);
  mkdir("/root", 0755);
  if (mount("dev", "/dev", "devtmpfs", 0, NULL) != 0) Fail("mount /dev");
  for (int i = 0; access("/dev/vda", F_OK) != 0 && i < 500; i++) usleep(10000);
  if (mount("/dev/vda", "/root", "ext4", 0, NULL) != 0) Fail("mount /dev/vda");
  if (umount2("/dev", MNT_DETACH) != 0) Fail("unmount /dev");
  if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0) Fail("enter the root");
  execl("/sbin/moult-init", "/sbin/moult-init", NULL);
  Fail("/sbin/moult-init");
}
