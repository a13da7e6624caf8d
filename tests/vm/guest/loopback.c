/* SPDX-License-Identifier: Apache-2.0
 *
 * moult-vm-loopback CID PORT: libmoult over AF_VSOCK. Runs a function by the agent there, asks it to be
 * listed, and ends it; prints what came of each. Exit 1 at the first that fails.
 */
#include <moult/moult.h>
#include <stdio.h>
#include <stdlib.h>

/* `started`: what the call that made the operation returned. 0 when it succeeded; `function` gets what it was
 * about. */
static int finish(int started, struct moult_op* op, const char* what, uint64_t* function) {
  struct moult_result numbers = MOULT_INIT(numbers);
  int result = started != 0 ? started : moult_op_wait(op, 60000);
  if (result == 0) result = moult_op_numbers(op, &numbers);
  if (result == 0) {
    printf("%s ok\n", what);
    if (numbers.function != 0) *function = numbers.function;
  } else {
    printf("%s: %s: %s\n", what, moult_code_name(moult_last_error_code()), moult_last_error());
  }
  moult_op_free(op);
  return result;
}

int main(int argc, char** argv) {
  struct moult_vm_options options = MOULT_INIT(options);
  struct moult_vm* vm = NULL;
  struct moult_op* op = NULL;
  uint64_t function = 0;
  int result;

  if (argc != 3) return 2;
  options.transport.kind = MOULT_TRANSPORT_VSOCK;
  options.transport.cid = (uint32_t)strtoul(argv[1], NULL, 10);
  options.transport.port = (uint32_t)strtoul(argv[2], NULL, 10);
  if (moult_vm_create(&options, &vm) != 0) {
    printf("create: %s\n", moult_last_error());
    return 1;
  }
  result = moult_vm_run(vm, "{\"name\": \"loop\", \"argv\": [\"sleep\", \"1000\"]}", NULL, &op);
  result = finish(result, op, "run", &function);
  op = NULL;
  if (result == 0) {
    result = moult_vm_list(vm, NULL, &op);
    result = finish(result, op, "list", &function);
    op = NULL;
  }
  if (result == 0) {
    result = moult_vm_kill(vm, function, NULL, &op);
    result = finish(result, op, "kill", &function);
  }
  moult_vm_close(vm);
  return result == 0 ? 0 : 1;
}
