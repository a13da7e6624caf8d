/* SPDX-License-Identifier: Apache-2.0
 *
 * What the functions of these tests are made of: they give up at the first error, and answer GET on port PORT of their
 * environment, else 8080.
 */
#ifndef MOULT_TESTS_VM_GUEST_ANSWER_H_
#define MOULT_TESTS_VM_GUEST_ANSWER_H_

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static inline void must(int good, const char* what) {
  if (good) return;
  perror(what);
  exit(1);
}

static inline uint16_t own_port(void) {
  const char* const text = getenv("PORT");
  return (uint16_t)(text != NULL ? strtoul(text, NULL, 10) : 8080);
}

/* `work` does what a path asks for, and writes the answer's body, of less than `size` bytes. */
static inline void answer_forever(void (*work)(const char* request, char* body, size_t size)) {
  const struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(own_port()), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  must(bind(listener, (const struct sockaddr*)&address, sizeof(address)) == 0 && listen(listener, 8) == 0, "listen");
  for (;;) {
    char request[4096], answer[2048], body[1024];
    const int client = accept(listener, NULL, NULL);
    if (client < 0) continue;
    const ssize_t got = read(client, request, sizeof(request) - 1);
    if (got > 0) {
      request[got] = 0;
      work(request, body, sizeof(body));
      const int size = snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                                strlen(body), body);
      must(write(client, answer, (size_t)size) == size, "answer");
    }
    close(client);
  }
}

#endif
