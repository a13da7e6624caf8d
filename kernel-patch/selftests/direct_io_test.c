// SPDX-License-Identifier: GPL-2.0-only
/* O_DIRECT from and into template pages. Takes a block device to overwrite. */
#include "moult_test.h"

#define PAGES 16

int main(int argc, char **argv)
{
	char *va, *check;
	int direct, plain;
	ssize_t put;

	if (argc != 2)
		die("usage: direct_io_test DEVICE");
	setup();
	direct = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	plain = open(argv[1], O_RDWR | O_CLOEXEC);
	if (direct < 0 || plain < 0)
		die(argv[1]);
	check = map_pages(PAGES, RW);
	va = map_attached(PAGES, 1, RW);
	put = pwrite(direct, va, PAGES * PAGE, 0);
	if (!has_struct_pages()) {
		CHECK(put == -1 && (errno == EFAULT || errno == EEXIST), "a direct write fails cleanly without struct pages");
		memset(check, 0x55, PAGE);
		CHECK_EQ(pwrite(direct, check, PAGE, 0), PAGE, "(write)");
	} else {
		CHECK_EQ(put, PAGES * PAGE, "a direct write of untouched pages");
		CHECK_EQ(pread(direct, check, PAGES * PAGE, 0), PAGES * PAGE, "read it back");
		CHECK(pages_hold_pattern(check, PAGES, 1), "it is the template");
		memset(check, 0x55, PAGE);
		CHECK_EQ(pwrite(direct, check, PAGE, 0), PAGE, "(write)");
	}
	va = map_attached(PAGES, 20, RW);
	CHECK_EQ(pread(direct, va + PAGE, PAGE, 0), PAGE, "a direct read into an untouched page");
	CHECK(page_holds(va + PAGE, 0x5555555555555555UL), "brings what is on disk");
	CHECK(pages_hold_pattern(va, 1, 20) && pages_hold_pattern(va + 2 * PAGE, PAGES - 2, 22), "and touches no other");
	CHECK(window_intact(20, PAGES), "nor the window");
	va = map_attached(1, 40, PROT_READ);
	CHECK(pread(direct, va, PAGE, 0) == -1 && errno == EFAULT, "a read-only mapping takes no direct read");
	CHECK(pages_hold_pattern(va, 1, 40), "and keeps its content");
	return finish();
}
