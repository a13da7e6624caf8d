/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest embedder: `moult-minimal AGENT_SOCKET STORE PROGRAM [ARGUMENT...]` starts PROGRAM as a function,
 * makes a template of it, and repurposes: the function ends, and a new one comes of the template.
 *
 * It has no guest memory, so pages go over the connection. A VMM fills in `regions` and `windows` as well, and all
 * calls below stay as they are. It shows the one thing that a VMM must do besides: put moult_vm_fd() into its loop.
 */
#include <errno.h>
#include <moult/moult.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *what) {
  fprintf(stderr, "moult-minimal: %s: %s: %s\n", what, moult_code_name(moult_last_error_code()), moult_last_error());
  return -1;
}

/* An event loop of one descriptor. `started`: what the call returned that made the operation. */
static int finish(struct moult_vm *vm, int started, struct moult_op **made, const char *what,
                  struct moult_result *numbers) {
  struct pollfd ready = {.fd = moult_vm_fd(vm), .events = POLLIN, .revents = 0};
  struct moult_op *op = *made;
  int result = started;
  while (result == 0 && moult_op_state(op) == MOULT_OP_RUNNING) {
    if (poll(&ready, 1, -1) < 0 && errno != EINTR) result = -errno;
    if (result == 0 && moult_vm_process(vm) < 0) result = -1;
  }
  if (result == 0) result = moult_op_result(op);
  if (result == 0) result = moult_op_numbers(op, numbers);
  if (result == 0) printf("%s: function %llu, %llu us\n", what, (unsigned long long)numbers->function,
                          (unsigned long long)numbers->total_us);
  if (result != 0) (void)fail(what);
  moult_op_free(op);
  *made = NULL;
  return result;
}

/* {"name": "minimal", "argv": [...]}; 0 when it does not fit or would need escapes, which an embedder leaves to
 * its JSON library. */
static int write_function(char *to, size_t size, int argc, char **argv) {
  size_t used = (size_t)snprintf(to, size, "{\"name\": \"minimal\", \"argv\": [");
  for (int i = 0; i < argc; ++i) {
    if (strpbrk(argv[i], "\"\\\n\t") != NULL) return 0;
    used += (size_t)snprintf(to + used, size - used, "%s\"%s\"", i == 0 ? "" : ", ", argv[i]);
    if (used + 4 >= size) return 0;
  }
  (void)snprintf(to + used, size - used, "]}");
  return 1;
}

static int work(struct moult_vm *vm, const char *function) {
  struct moult_result numbers = MOULT_INIT(numbers);
  struct moult_op *op = NULL;
  if (finish(vm, moult_vm_run(vm, function, NULL, &op), &op, "run", &numbers) != 0) return -1;

  struct moult_capture_options capture = MOULT_INIT(capture);
  capture.function = numbers.function;
  capture.name = "minimal";
  capture.end = 1; /* without regions there is no detach, and so no moult_vm_repurpose() */
  if (finish(vm, moult_vm_capture(vm, &capture, NULL, &op), &op, "capture", &numbers) != 0) return -1;

  struct moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "minimal";
  if (finish(vm, moult_vm_attach(vm, &attach, NULL, &op), &op, "attach", &numbers) != 0) return -1;

  return finish(vm, moult_vm_kill(vm, numbers.function, NULL, &op), &op, "kill", &numbers);
}

int main(int argc, char **argv) {
  char function[4096];
  if (argc < 4 || !write_function(function, sizeof(function), argc - 3, argv + 3)) {
    fprintf(stderr, "usage: moult-minimal AGENT_SOCKET STORE PROGRAM [ARGUMENT...]   (no quotes in arguments)\n");
    return 2;
  }
  struct moult_store_options store_options = MOULT_INIT(store_options);
  store_options.flags = MOULT_STORE_CREATE;
  struct moult_store *store = NULL;
  if (moult_store_open(argv[2], &store_options, &store) != 0) return fail("open store") != 0;

  struct moult_vm_options options = MOULT_INIT(options);
  options.name = "minimal";
  options.store = store;
  options.transport.kind = MOULT_TRANSPORT_UNIX;
  options.transport.path = argv[1];
  struct moult_vm *vm = NULL;
  int result = moult_vm_create(&options, &vm);
  if (result != 0) {
    (void)fail("make vm");
  } else {
    result = work(vm, function);
  }
  moult_vm_close(vm);
  moult_store_close(store);
  return result == 0 ? 0 : 1;
}
