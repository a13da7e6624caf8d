// SPDX-License-Identifier: GPL-2.0-only
/* Huge pages never meet template pages. */
#include "huge.h"

int main(void)
{
	char *va;

	setup();
	if (!write_file("/sys/kernel/mm/transparent_hugepage/enabled", "always")) {
		skip("huge pages", "the kernel has none");
		return finish();
	}
	va = huge_aligned(HUGE_PAGES);
	va[0] = 1;
	if (huge_kib() <= 0)
		die("no huge page came");
	CHECK_EQ(attach(va, 1, 1, RW), -EEXIST, "attach where a huge page is");
	CHECK_EQ(attach(va + 5 * PAGE, 1, 1, RW), -EEXIST, "in its middle");
	CHECK(va[0] == 1 && !va[5 * PAGE], "which stays");
	va = huge_aligned(HUGE_PAGES);
	if (*(volatile char *)va)
		die("huge zero page");
	CHECK_EQ(attach(va, HUGE_PAGES, 1, RW), -EEXIST, "attach where the huge zero page is");
	madvise(va, HUGE, MADV_DONTNEED);
	CHECK_EQ(attach(va, HUGE_PAGES, 1, RW), 0, "after MADV_DONTNEED it works");
	CHECK(pages_hold_pattern(va, HUGE_PAGES, 1), "with small pages");

	CHECK(madvise(va, HUGE, MADV_COLLAPSE) == -1, "template pages do not collapse into a huge page");
	for (size_t i = 0; i < HUGE_PAGES / 2; i++)
		va[i * PAGE] = 1;
	CHECK(madvise(va, HUGE, MADV_COLLAPSE) == -1, "nor mixed with copies");
	CHECK(pages_hold_pattern(va + HUGE / 2, HUGE_PAGES / 2, 1 + HUGE_PAGES / 2), "and keep their content");
	madvise(va, HUGE, MADV_HUGEPAGE);
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "0");
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "100000");
	long scans = read_number("/sys/kernel/mm/transparent_hugepage/khugepaged/full_scans", "");
	for (int i = 0; i < 1000 && read_number("/sys/kernel/mm/transparent_hugepage/khugepaged/full_scans", "") < scans + 3; i++)
		usleep(10000);
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "10000");
	CHECK(pages_hold_pattern(va + HUGE / 2, HUGE_PAGES / 2, 1 + HUGE_PAGES / 2), "also after khugepaged came by");

	/* A mapping with both: huge where no template page is. */
	va = huge_aligned(4 * HUGE_PAGES);
	CHECK_EQ(attach(va + HUGE, 10, 1, RW), 0, "attach in one of four huge ranges");
	memset(va, 5, HUGE);
	memset(va + 2 * HUGE, 5, 2 * HUGE);
	CHECK(pages_hold_pattern(va + HUGE, 10, 1), "content stays when the others are written");
	struct moult_extent extent = extent_of(1, 10);
	CHECK_EQ(ioctl(device, MOULT_BUSY, &extent), 0, "MOULT_BUSY walks past huge pages");
	CHECK(extent.mapped >= 10, "and counts");
	CHECK_EQ(attach(va + HUGE + 20 * PAGE, 10, 1, RW), 0, "attach beside");
	CHECK_EQ(attach(va, 1, 1, RW), -EEXIST, "but not on a huge page");
	return finish();
}
