// SPDX-License-Identifier: GPL-2.0-only
/* Reading template pages: right content, no fault, no memory used. */
#include "moult_test.h"

#include <sys/resource.h>

#define PAGES 2048

static long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static uint64_t page_frame(const void *va)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)va / PAGE * 8)) != 8)
		die("pagemap");
	close(fd);
	return entry & ((1UL << 55) - 1);
}

int main(void)
{
	struct moult_range ranges[3];
	long faults, before;
	char *va;
	bool right;

	setup();
	va = map_pages(PAGES, RW);
	before = read_number("/proc/self/status", "RssFile:");
	CHECK_EQ(attach(va, PAGES, 5, RW), 0, "attach answers");
	CHECK_EQ(last_attach.attached, PAGES, "and tells how many pages");
	CHECK_EQ(last_attach.failed, 1, "and that no range failed");
	faults = minor_faults();
	right = pages_hold_pattern(va, PAGES, 5);
	faults = minor_faults() - faults;
	CHECK(right, "each page holds what the window holds");
	CHECK(faults < 4, "reading them takes no page fault");
	CHECK_EQ(page_frame(va + 7 * PAGE), window.gpa / PAGE + 5 + 7, "pagemap shows the window's page frame");
	CHECK(read_number("/proc/self/status", "RssAnon:") < 4096, "they are no anonymous memory of the process");
	if (has_struct_pages())
		CHECK(read_number("/proc/self/status", "RssFile:") - before >= (long)(PAGES * PAGE / 1024),
		      "but count as file pages");

	/* Scattered, with holes that stay zero. */
	va = map_pages(64, RW);
	ranges[0] = range_of(va, 1, 100, RW);
	ranges[1] = range_of(va + 2 * PAGE, 3, 50, RW);
	ranges[2] = range_of(va + 63 * PAGE, 1, 50, RW);
	CHECK_EQ(attach_ranges(ranges, 3, 0), 0, "a batch of scattered ranges");
	CHECK(page_holds(va, PATTERN(100)), "first range");
	CHECK(page_holds(va + PAGE, 0), "a hole between ranges is zero");
	CHECK(pages_hold_pattern(va + 2 * PAGE, 3, 50), "second range");
	CHECK(page_holds(va + 62 * PAGE, 0), "so is the next hole");
	CHECK(page_holds(va + 63 * PAGE, PATTERN(50)), "one window page may be shown twice");
	return finish();
}
