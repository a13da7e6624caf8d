// SPDX-License-Identifier: Apache-2.0
//
// A socket with an eBPF filter, which the kernel does not give out, cannot be captured: refused, and it
// filters on.
#include <linux/bpf.h>
#include <sys/socket.h>

#include "victim.h"

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  // Keeps three bytes of each datagram.
  const struct bpf_insn program[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 3},
                                     {.code = BPF_JMP | BPF_EXIT}};
  union bpf_attr load = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
                         .insn_cnt = 2,
                         .insns = (uintptr_t)program,
                         .license = (uintptr_t) "Apache-2.0"};
  const int loaded = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
  if (loaded < 0) VictimSkip("bpf: %s", strerror(errno));
  int pair[2];
  SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
  SYS(setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_BPF, &loaded, sizeof(loaded)));
  SYS(close(loaded));
  VictimReady();
  char bytes[16];
  SYS(send(pair[0], "filter", 6, 0));
  CHECK_EQ(SYS(recv(pair[1], bytes, sizeof(bytes), 0)), 3);
  VictimPass();
}
