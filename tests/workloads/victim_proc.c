// SPDX-License-Identifier: Apache-2.0
//
// What a victim reads about itself in /proc. Buffers are on the stack and descriptors are closed: a look must
// not change the memory or the descriptor table that is under test.
#include "victim.h"

size_t VictimSlurp(const char* path, void* value, size_t size) {
  const int fd = (int)SYS(open(path, O_RDONLY | O_CLOEXEC));
  size_t length = 0;
  ssize_t count;
  while (length + 1 < size && (count = read(fd, (char*)value + length, size - 1 - length)) > 0) {
    length += (size_t)count;
  }
  SYS(close(fd));
  ((char*)value)[length] = 0;
  return length;
}

struct Lines {
  int fd;
  size_t begin, end;
  char buffer[8192];
};

static char* NextLine(struct Lines* lines) {
  for (;;) {
    char* start = lines->buffer + lines->begin;
    char* newline = memchr(start, '\n', lines->end - lines->begin);
    if (newline != NULL) {
      *newline = 0;
      lines->begin = (size_t)(newline + 1 - lines->buffer);
      return start;
    }
    lines->end -= lines->begin;
    memmove(lines->buffer, start, lines->end);
    lines->begin = 0;
    const ssize_t count = read(lines->fd, lines->buffer + lines->end, sizeof(lines->buffer) - lines->end);
    if (count <= 0) return NULL;
    lines->end += (size_t)count;
  }
}

static bool ParseVma(const char* line, struct VictimVma* vma) {
  unsigned long start, end, offset;
  vma->name[0] = 0;
  if (sscanf(line, "%lx-%lx %4s %lx %*s %*s %255[^\n]", &start, &end, vma->perms, &offset, vma->name) < 4) {
    return false;
  }
  vma->start = start;
  vma->end = end;
  vma->offset = offset;
  return true;
}

struct VictimVma VictimFindVma(const void* address) {
  struct Lines lines = {.fd = (int)SYS(open("/proc/self/maps", O_RDONLY | O_CLOEXEC))};
  struct VictimVma vma;
  for (const char* line; (line = NextLine(&lines)) != NULL;) {
    if (ParseVma(line, &vma) && vma.start <= (uintptr_t)address && (uintptr_t)address < vma.end) {
      SYS(close(lines.fd));
      return vma;
    }
  }
  FAIL("no mapping holds %p", address);
}

// Value of "Key: value" in the part of smaps about the mapping that holds the address.
static void SmapsField(const void* address, const char* key, char* value, size_t size) {
  struct Lines lines = {.fd = (int)SYS(open("/proc/self/smaps", O_RDONLY | O_CLOEXEC))};
  struct VictimVma vma;
  const size_t length = strlen(key);
  bool inside = false;
  for (const char* line; (line = NextLine(&lines)) != NULL;) {
    if (ParseVma(line, &vma)) {
      inside = vma.start <= (uintptr_t)address && (uintptr_t)address < vma.end;
    } else if (inside && strncmp(line, key, length) == 0 && line[length] == ':') {
      SYS(close(lines.fd));
      snprintf(value, size, "%s", line + length + 1);
      return;
    }
  }
  FAIL("no %s of %p in smaps", key, address);
}

bool VictimVmFlag(const void* address, const char* flag) {
  char flags[256], wanted[8];
  SmapsField(address, "VmFlags", flags, sizeof(flags));
  snprintf(wanted, sizeof(wanted), " %s ", flag);
  return strstr(flags, wanted) != NULL;
}

long VictimSmapsKb(const void* address, const char* key) {
  char text[64];
  SmapsField(address, key, text, sizeof(text));
  return strtol(text, NULL, 10);
}

void VictimProcField(const char* path, const char* key, char* value, size_t size) {
  struct Lines lines = {.fd = (int)SYS(open(path, O_RDONLY | O_CLOEXEC))};
  const size_t length = strlen(key);
  for (const char* line; (line = NextLine(&lines)) != NULL;) {
    if (strncmp(line, key, length) == 0 && line[length] == ':') {
      SYS(close(lines.fd));
      line += length + 1;
      snprintf(value, size, "%s", line + strspn(line, " \t"));
      return;
    }
  }
  FAIL("no %s in %s", key, path);
}

uint64_t VictimPagemap(const void* address) {
  const int fd = (int)SYS(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  uint64_t entry = 0;
  CHECK_EQ(pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)address / kPage * sizeof(entry))),
           sizeof(entry));
  SYS(close(fd));
  return entry;
}

void VictimAwaitBlocked(pid_t tid, long syscall_number) {
  char path[64], text[256];
  snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)tid);
  for (int i = 0; i < 5000; i++) {
    VictimSlurp(path, text, sizeof(text));
    char* end;
    // "running" while it runs, "-1 ..." when it sleeps outside of a system call.
    if (strtol(text, &end, 10) == syscall_number && end != text) return;
    VictimSleepMs(2);
  }
  FAIL("thread %d is not in system call %ld but: %s", (int)tid, syscall_number, text);
}
