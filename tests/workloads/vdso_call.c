// SPDX-License-Identifier: Apache-2.0
//
// Function pointers into the vdso that were taken before still work: clock_gettime and getcpu.
#include <elf.h>
#include <sched.h>
#include <sys/auxv.h>

#include "victim.h"

static void* VdsoSymbol(const char* name) {
  const char* base = (const char*)getauxval(AT_SYSINFO_EHDR);
  const Elf64_Ehdr* header = (const void*)base;
  const Elf64_Phdr* segment = (const void*)(base + header->e_phoff);
  const Elf64_Sym* symbols = NULL;
  const char* strings = NULL;
  while (segment->p_type != PT_DYNAMIC) segment++;
  for (const Elf64_Dyn* tag = (const void*)(base + segment->p_offset); tag->d_tag != DT_NULL; tag++) {
    if (tag->d_tag == DT_SYMTAB) symbols = (const void*)(base + tag->d_un.d_ptr);
    if (tag->d_tag == DT_STRTAB) strings = base + tag->d_un.d_ptr;
  }
  for (int i = 1; i < 64; i++) {
    if (strcmp(strings + symbols[i].st_name, name) == 0) return (void*)(base + symbols[i].st_value);
  }
  FAIL("no %s in the vdso", name);
}

int main(int argc, char** argv) {
  VictimInit(argc, argv);
  if (getauxval(AT_SYSINFO_EHDR) == 0) VictimSkip("no vdso");
  int (*clock_function)(clockid_t, struct timespec*);
  int (*cpu_function)(unsigned*, unsigned*, void*);
  *(void**)&clock_function = VdsoSymbol("__vdso_clock_gettime");
  *(void**)&cpu_function = VdsoSymbol("__vdso_getcpu");
  struct timespec before, after;
  CHECK_EQ(clock_function(CLOCK_MONOTONIC, &before), 0);
  VictimReady();
  CHECK_EQ(clock_function(CLOCK_MONOTONIC, &after), 0);
  CHECK(after.tv_sec > before.tv_sec || (after.tv_sec == before.tv_sec && after.tv_nsec >= before.tv_nsec),
        "monotonic clock of the vdso went back: %ld, was %ld", after.tv_sec, before.tv_sec);
  struct timespec kernel;  // vdso and kernel must tell the same time
  SYS(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &kernel));
  const int64_t gap = (kernel.tv_sec - after.tv_sec) * 1000000000LL + kernel.tv_nsec - after.tv_nsec;
  CHECK(gap >= 0 && gap < 30000000000LL, "kernel's clock is %lld ns ahead of the vdso's", (long long)gap);
  unsigned cpu = ~0u, node = 0;
  CHECK_EQ(cpu_function(&cpu, &node, NULL), 0);
  CHECK(cpu < 4096, "cpu is %u", cpu);
  VictimPass();
}
