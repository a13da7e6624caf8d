/* SPDX-License-Identifier: Apache-2.0
 *
 * planter SEED PAGES KIND...: makes PAGES pages of each KIND whose first words are a mark made of SEED and the kind, and
 * the page's number, and answers GET with {"KIND": address of the first page in this process, or 0}. Kinds:
 *   anonymous   private memory                    file_copy  written in a private mapping of a file
 *   file        page cache, mapped                cache      page cache that nobody maps
 *   shared      anonymous memory, mapped shared   tmpfs      of a file that nobody maps
 *   tables      no pages, but as many page tables
 *   threads-N   no pages, but so many threads that sleep
 * Those of one port use the same files, one after the other.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

#include "answer.h"

#define PAGE 4096u
#define HUGE (2ul << 20)

static size_t pages;
static char told[1024];

static uint64_t mark(uint64_t seed, const char* kind) {
  uint64_t hash = 0xcbf29ce484222325u ^ seed * 0x9e3779b97f4a7c15u; /* FNV-1a */
  while (*kind) hash = (hash ^ (uint8_t)*kind++) * 0x100000001b3u;
  return hash;
}

static void put(void* page, uint64_t of, uint64_t number) {
  const uint64_t words[2] = {of, number};
  memcpy(page, words, sizeof(words));
}

static char* map(int prot, int flags, int fd) {
  char* memory = mmap(NULL, pages * PAGE, prot, flags, fd, 0);
  must(memory != MAP_FAILED, "mmap");
  return memory;
}

static int plant_file(const char* path, uint64_t of) {
  /* Not at the beginning of a page of ours, which would then look like one of the file's. */
  _Alignas(PAGE) char room[2 * PAGE] = {0};
  char* const page = room + PAGE / 2;
  const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  must(fd >= 0, path);
  for (size_t i = 0; i < pages; ++i) {
    put(page, of, i);
    must(write(fd, page, PAGE) == PAGE, "write");
  }
  must(fsync(fd) == 0, "fsync");
  return fd;
}

static void* sleep_forever(void* unused) {
  while (pause() != 0) continue; /* it never gives anything else */
  return unused;
}

static void start_threads(unsigned long count) {
  pthread_attr_t attributes;
  must(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 65536) == 0, "threads");
  for (unsigned long i = 0; i < count; ++i) {
    pthread_t thread;
    must(pthread_create(&thread, &attributes, sleep_forever, NULL) == 0, "pthread_create");
  }
}

static char* plant(const char* kind, uint64_t of) {
  char path[64];
  /* Functions have the same process ids, each in its sandbox, but one /var/tmp. */
  snprintf(path, sizeof(path), "%s/planted-%s-%u", strcmp(kind, "tmpfs") == 0 ? "/dev/shm" : "/var/tmp", kind, own_port());
  char* memory;
  if (strcmp(kind, "anonymous") == 0 || strcmp(kind, "shared") == 0) {
    memory = map(PROT_READ | PROT_WRITE, MAP_ANONYMOUS | (*kind == 'a' ? MAP_PRIVATE : MAP_SHARED), -1);
    for (size_t i = 0; i < pages; ++i) put(memory + i * PAGE, of, i);
  } else if (strcmp(kind, "file_copy") == 0) {
    memory = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, plant_file(path, 0));
    for (size_t i = 0; i < pages; ++i) put(memory + i * PAGE, of, i);
  } else if (strcmp(kind, "file") == 0) {
    memory = map(PROT_READ, MAP_SHARED | MAP_POPULATE, plant_file(path, of));
  } else if (strncmp(kind, "threads-", 8) == 0) {
    start_threads(strtoul(kind + 8, NULL, 10));
    memory = NULL;
  } else if (strcmp(kind, "tables") == 0) {
    memory = mmap(NULL, pages * HUGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(memory != MAP_FAILED && madvise(memory, pages * HUGE, MADV_NOHUGEPAGE) == 0, "tables");
    for (size_t i = 0; i < pages; ++i) (void)*(volatile char*)(memory + i * HUGE);
  } else {
    must(strcmp(kind, "cache") == 0 || strcmp(kind, "tmpfs") == 0, kind);
    close(plant_file(path, of));
    memory = NULL;
  }
  return memory;
}

static void work(const char* request, char* body, size_t size) {
  (void)request;
  snprintf(body, size, "%s", told);
}

int main(int argc, char** argv) {
  must(argc > 3, "planter SEED PAGES KIND...");
  const uint64_t seed = strtoull(argv[1], NULL, 10);
  pages = strtoul(argv[2], NULL, 10);
  size_t used = 0;
  for (int i = 3; i < argc; ++i) {
    char* at = plant(argv[i], mark(seed, argv[i]));
    used += (size_t)snprintf(told + used, sizeof(told) - used, "%c\"%s\": %lu", i == 3 ? '{' : ',', argv[i], (unsigned long)at);
  }
  snprintf(told + used, sizeof(told) - used, "}");
  answer_forever(work);
}
