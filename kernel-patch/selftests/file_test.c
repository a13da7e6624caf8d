// SPDX-License-Identifier: GPL-2.0-only
/* Template pages in private mappings of files, as copies that were written there once. */
#include "moult_test.h"

#define PAGES 64

static char path[] = "/tmp/moult-file-XXXXXX";
static int file;

static int attach_file(const void *va, size_t pages, size_t first, int prot)
{
	struct moult_range range = range_of(va, pages, first, prot);

	return attach_ranges(&range, 1, MOULT_ATTACH_FILES);
}

static bool file_content(const char *va, size_t pages)
{
	for (size_t i = 0; i < pages * PAGE; i++)
		if (va[i] != 'f')
			return false;
	return true;
}

static char *map_file(int prot, int flags)
{
	char *va = mmap(NULL, PAGES * PAGE, prot, flags, file, 0);

	if (va == MAP_FAILED)
		die("map the file");
	return va;
}

static int child_sees(void *va)
{
	char *at = va;

	if (!pages_hold_pattern(at + 8 * PAGE, 8, 1) || !file_content(at + 16 * PAGE, 1))
		return 1;
	at[8 * PAGE] = 1;
	return at[8 * PAGE] == 1 ? 0 : 2;
}

static void test_use(void)
{
	char *va = map_file(RW, MAP_PRIVATE);
	char byte;

	CHECK_EQ(attach(va + 8 * PAGE, 8, 1, RW), -EOPNOTSUPP, "not without the flag");
	CHECK_EQ(attach_file(va + 8 * PAGE, 8, 1, RW), 0, "attach in a private mapping of a file");
	CHECK(pages_hold_pattern(va + 8 * PAGE, 8, 1), "its pages are there");
	CHECK(file_content(va, 8) && file_content(va + 16 * PAGE, PAGES - 16), "around them is the file");
	CHECK_EQ(run_child(child_sees, va), 0, "a child has them, and can write");
	CHECK(pages_hold_pattern(va + 8 * PAGE, 8, 1), "which the parent does not see");
	va[9 * PAGE] = 1;
	CHECK(va[9 * PAGE] == 1 && pages_hold_pattern(va + 10 * PAGE, 6, 3), "a write copies one page");
	CHECK(window_intact(1, 8), "and not into the window");
	CHECK(pread(file, &byte, 1, 9 * PAGE) == 1 && byte == 'f', "nor into the file");
	mprotect(va, PAGES * PAGE, PROT_READ);
	mprotect(va, PAGES * PAGE, RW);
	CHECK(pages_hold_pattern(va + 10 * PAGE, 6, 3), "they survive mprotect");
	madvise(va + 8 * PAGE, 4 * PAGE, MADV_DONTNEED);
	CHECK(file_content(va + 8 * PAGE, 4), "MADV_DONTNEED brings the file back");
	CHECK(pages_hold_pattern(va + 12 * PAGE, 4, 5), "there alone");
	CHECK(write_file("/proc/sys/vm/drop_caches", "3"), "caches are dropped");
	CHECK(pages_hold_pattern(va + 12 * PAGE, 4, 5), "which they outlive");
	munmap(va, PAGES * PAGE);
}

static void test_read_only(void)
{
	char *va = map_file(PROT_READ, MAP_PRIVATE);

	CHECK_EQ(attach_file(va, PAGES, 1, PROT_READ), 0, "attach where nothing may be written");
	CHECK(pages_hold_pattern(va, PAGES, 1), "all pages are there");
	CHECK(killed_by(run_child(write_byte, va), SIGSEGV), "a write is the end");
	munmap(va, PAGES * PAGE);
}

static void test_refused(void)
{
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	char *va = map_file(RW, MAP_SHARED);
	struct moult_range range;

	CHECK_EQ(attach_file(va, 1, 1, RW), -EOPNOTSUPP, "a shared mapping");
	munmap(va, PAGES * PAGE);
	va = mmap(NULL, PAGE, RW, MAP_PRIVATE, zero, 0);
	CHECK_EQ(attach_file(va, 1, 1, RW), -EOPNOTSUPP, "/dev/zero");
	va = map_file(RW, MAP_PRIVATE);
	if (va[0] != 'f')
		die("read");
	CHECK_EQ(attach_file(va, 1, 1, RW), -EEXIST, "a page of the file that was read before");
	range = range_of(va + 32 * PAGE, 1, 1, RW);
	CHECK_EQ(attach_ranges(&range, 1, 2), -EINVAL, "flags that mean nothing");
	munmap(va, PAGES * PAGE);
}

static void test_no_leak(void)
{
	struct moult_extent extent = extent_of(1, PAGES);

	for (int round = 0; round < 100; round++) {
		char *va = map_file(RW, MAP_PRIVATE);

		if (attach_file(va, PAGES, 1, RW))
			die("attach");
		memset(va, 1, (size_t)(round % PAGES) * PAGE);
		munmap(va, PAGES * PAGE);
	}
	if (ioctl(device, MOULT_BUSY, &extent))
		die("MOULT_BUSY");
	CHECK(extent.mapped == 0 && extent.pinned == 0, "nothing is left of 100 mappings");
}

int main(void)
{
	static char content[PAGES * PAGE];

	setup();
	memset(content, 'f', sizeof(content));
	file = mkstemp(path);
	if (file < 0 || write(file, content, sizeof(content)) != (ssize_t)sizeof(content))
		die(path);
	unlink(path);
	test_use();
	test_read_only();
	test_refused();
	test_no_leak();
	return finish();
}
