// SPDX-License-Identifier: GPL-2.0-only
/* A core dump holds template pages, also of mappings that were never written to. */
#include "moult_test.h"

#include <elf.h>
#include <sys/resource.h>

#define PAGES 8

static char *ordinary, *readonly;

static int crash(void *unused)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	(void)unused;
	setrlimit(RLIMIT_CORE, &all);
	raise(SIGSEGV);
	return 1;
}

/* The bytes that the core file has for va; false if it has none. */
static bool core_read(int fd, const void *va, void *to, size_t size)
{
	Elf64_Ehdr head;
	Elf64_Phdr part;

	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG))
		die("core");
	for (int i = 0; i < head.e_phnum; i++) {
		uint64_t at = (uint64_t)(uintptr_t)va;

		if (pread(fd, &part, sizeof(part), (off_t)(head.e_phoff + (size_t)i * sizeof(part))) != sizeof(part))
			die("core");
		if (part.p_type == PT_LOAD && at >= part.p_vaddr && at + size <= part.p_vaddr + part.p_filesz)
			return pread(fd, to, size, (off_t)(part.p_offset + at - part.p_vaddr)) == (ssize_t)size;
	}
	return false;
}

int main(void)
{
	static char buffer[PAGES * PAGE];
	int status, fd;

	setup();
	if (!write_file("/proc/sys/kernel/core_pattern", "/tmp/moult-core") ||
	    !write_file("/proc/sys/kernel/core_uses_pid", "0"))
		die("core_pattern");
	unlink("/tmp/moult-core");
	ordinary = map_attached(PAGES, 1, RW);
	readonly = map_attached(PAGES, 11, PROT_READ);
	status = run_child(crash, NULL);
	CHECK(killed_by(status, SIGSEGV) && WCOREDUMP(status), "a process with template pages dumps core");
	fd = open("/tmp/moult-core", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("/tmp/moult-core");
	CHECK(core_read(fd, ordinary, buffer, sizeof(buffer)), "a never written mapping is in it");
	if (has_struct_pages())
		CHECK(pages_hold_pattern(buffer, PAGES, 1), "with the template's content");
	else
		CHECK(page_holds(buffer, 0), "as zeros, without struct pages");
	CHECK(core_read(fd, readonly, buffer, sizeof(buffer)), "so is a read-only one");
	if (has_struct_pages())
		CHECK(pages_hold_pattern(buffer, PAGES, 11), "with its content");
	close(fd);
	unlink("/tmp/moult-core");
	return finish();
}
