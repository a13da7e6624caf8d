// SPDX-License-Identifier: GPL-2.0-only
/* vmsplice holds template pages beyond their mapping; detach waits for that. */
#include "moult_test.h"

#include <sys/uio.h>

#define PAGES 4

int main(void)
{
	struct moult_extent extent;
	char buffer[PAGES * PAGE];
	struct iovec vector;
	int pipes[2];
	char *va;
	ssize_t put;

	setup();
	if (pipe(pipes))
		die("pipe");
	va = map_attached(PAGES, 30, RW);
	vector = (struct iovec){ va, PAGES * PAGE };
	put = vmsplice(pipes[1], &vector, 1, 0);
	if (!has_struct_pages()) {
		CHECK(put == -1 && (errno == EFAULT || errno == EEXIST), "vmsplice fails cleanly without struct pages");
		extent = extent_of(30, PAGES);
		CHECK_EQ(ioctl(device, MOULT_BUSY, &extent), 0, "MOULT_BUSY");
		CHECK(extent.mapped == PAGES && !extent.pinned, "nothing is pinned");
		return finish();
	}
	CHECK_EQ(put, PAGES * PAGE, "vmsplice of untouched pages");
	extent = extent_of(30, PAGES);
	CHECK_EQ(ioctl(device, MOULT_BUSY, &extent), 0, "MOULT_BUSY");
	CHECK_EQ(extent.mapped, PAGES, "counts the entries");
	CHECK_EQ(extent.pinned, PAGES, "and the pages in the pipe");
	va[0] = 1;
	CHECK_EQ(munmap(va, PAGES * PAGE), 0, "unmap them");
	extent = extent_of(30, PAGES);
	CHECK(ioctl(device, MOULT_DETACH, &extent) == -1 && errno == EBUSY, "MOULT_DETACH is refused");
	CHECK_EQ(extent.mapped, 0, "no entry is left");
	CHECK_EQ(extent.pinned, PAGES, "but the pipe");
	extent = extent_of(1, 8);
	CHECK_EQ(ioctl(device, MOULT_DETACH, &extent), 0, "other parts of the window may be detached");
	CHECK_EQ(read(pipes[0], buffer, sizeof(buffer)), sizeof(buffer), "read the pipe");
	CHECK(pages_hold_pattern(buffer, PAGES, 30), "what was spliced is what was there");
	extent = extent_of(30, PAGES);
	CHECK_EQ(ioctl(device, MOULT_DETACH, &extent), 0, "now the detach succeeds");
	CHECK_EQ(extent.pinned, 0, "nothing is pinned");
	return finish();
}
