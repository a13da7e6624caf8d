/* SPDX-License-Identifier: Apache-2.0
 *
 * canary SEED [WHAT]: fills heap, stack, a private file and a memfd with a marker that is made of SEED, and answers
 * GET on port 8080 with how many it made; of /dirty after it has made them once more. WHAT: "p" a pipe as well,
 * "n" the file keeps its name, "f" memory that it gives back to the kernel at once, "x" no memfd; "pn" when not given. Neither this
 * file nor an argument holds the marker.
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>

#include "answer.h"

#define HEAP (8u << 20)
#define STACK (1u << 20)
#define FILE_BYTES (2u << 20)

static uint64_t marker[2];

/* splitmix64 */
static uint64_t mix(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static void fill(void* to, size_t size) {
  for (size_t at = 0; at < size; at += sizeof(marker)) memcpy((char*)to + at, marker, sizeof(marker));
}

static void fill_file(int fd, size_t size) {
  char buffer[65536];
  must(fd >= 0, "open");
  fill(buffer, sizeof(buffer));
  for (size_t at = 0; at < size; at += sizeof(buffer))
    must(write(fd, buffer, sizeof(buffer)) == sizeof(buffer), "write");
}

static void give_back(void) {
  char* memory = mmap(NULL, HEAP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(memory != MAP_FAILED, "mmap");
  fill(memory, HEAP);
  must(munmap(memory, HEAP) == 0, "munmap");
}

static char *heap, *stack_memory;
static size_t planted;

static void work(const char* request, char* body, size_t size) {
  if (strncmp(request, "GET /dirty", 10) == 0) {
    fill(heap, HEAP);
    fill(stack_memory, STACK);
  }
  snprintf(body, size, "%zu", planted);
}

int main(int argc, char** argv) {
  char stack[STACK];
  int ends[2];
  uint64_t state = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
  const char* what = argc > 2 ? argv[2] : "pn";
  marker[0] = mix(&state);
  marker[1] = mix(&state);
  heap = malloc(HEAP);
  must(heap != NULL, "malloc");
  fill(heap, HEAP);
  fill(stack, sizeof(stack));
  __asm__ volatile("" : : "r"(stack), "r"(heap) : "memory");
  fill_file(open("/tmp/canary", O_RDWR | O_CREAT | O_EXCL, 0600), FILE_BYTES);
  if (strchr(what, 'n') == NULL) must(unlink("/tmp/canary") == 0, "unlink");
  const int with_memfd = strchr(what, 'x') == NULL;
  if (with_memfd) fill_file(memfd_create("canary", MFD_CLOEXEC), FILE_BYTES);
  const int with_pipe = strchr(what, 'p') != NULL;
  must(pipe(ends) == 0, "pipe");
  if (with_pipe) fill_file(ends[1], 65536);
  if (strchr(what, 'f') != NULL) give_back();
  stack_memory = stack;
  planted = (HEAP + STACK + (with_memfd ? 2 : 1) * FILE_BYTES + (with_pipe ? 65536 : 0)) / sizeof(marker);
  answer_forever(work);
}
