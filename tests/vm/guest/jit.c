/* SPDX-License-Identifier: Apache-2.0
 *
 * moult-vm-jit VALUE: a function whose answers come of code that it has made itself, at a fixed place. To
 * each request on 127.0.0.1:8080 it answers "VALUE GPA": what its code returns, and where in guest-physical
 * memory the code is.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE 4096UL
/* Below all else, so that it is the first page of a template. */
#define PLACE 0x10000UL

/* mov $value, %eax; ret */
static int (*make_code(uint32_t value))(void) {
  unsigned char* code = mmap((void*)PLACE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  int (*call)(void);
  if (code == MAP_FAILED) return NULL;
  code[0] = 0xb8;
  memcpy(code + 1, &value, sizeof(value));
  code[5] = 0xc3;
  memcpy(&call, &code, sizeof(call));
  return call;
}

static uint64_t place_of_code(void) {
  uint64_t entry = 0;
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const ssize_t got = pread(map, &entry, sizeof(entry), (off_t)(PLACE / PAGE * sizeof(entry)));
  close(map);
  return got == (ssize_t)sizeof(entry) ? (entry & ((1UL << 55) - 1)) * PAGE : 0;
}

int main(int argc, char** argv) {
  const struct sockaddr_in here = {
      .sin_family = AF_INET, .sin_port = htons(8080), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  int (*code)(void) = argc == 2 ? make_code((uint32_t)strtoul(argv[1], NULL, 10)) : NULL;

  if (code == NULL) return 2;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener, (const struct sockaddr*)&here, sizeof(here)) < 0 || listen(listener, 8) < 0) return 1;
  for (;;) {
    const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    char text[256];
    char body[64];
    if (client < 0) return 1;
    if (read(client, text, sizeof(text)) > 0) {
      const int size = snprintf(body, sizeof(body), "%d %lu", code(), (unsigned long)place_of_code());
      const int all =
          snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                   size, body);
      if (write(client, text, (size_t)all) != all) return 1;
    }
    close(client);
  }
}
