// SPDX-License-Identifier: GPL-2.0-only
/*
 * attach_bench [--json]: the cost of a template page, from 32 MiB to 1 GiB, beside
 * that of a page from mmap(MAP_POPULATE) in the same run: medians of pairs.
 */
#include "moult_test.h"

#include <time.h>

#define RUNS 5

static double now_ns(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values)
{
	qsort(values, RUNS, sizeof(*values), compare);
	return values[RUNS / 2];
}

/* In a fresh mapping, page tables included; and a read of every page. */
static void attach_once(size_t pages, double *install, double *read_after)
{
	char *va = map_pages(pages, RW);
	double start = now_ns();
	uint64_t sum = 0;

	if (attach(va, pages, 0, RW))
		die("MOULT_ATTACH");
	*install = (now_ns() - start) / (double)pages;
	start = now_ns();
	for (size_t i = 0; i < pages; i++)
		sum += *(volatile uint64_t *)(va + i * PAGE);
	*read_after = (now_ns() - start) / (double)pages;
	munmap(va, pages * PAGE);
}

static double populate_once(size_t pages)
{
	double start = now_ns();
	char *va = mmap(NULL, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (va == MAP_FAILED)
		die("MAP_POPULATE");
	start = (now_ns() - start) / (double)pages;
	munmap(va, pages * PAGE);
	return start;
}

int main(int argc, char **argv)
{
	bool json = argc > 1 && !strcmp(argv[1], "--json");
	const char *comma = "";

	setup();
	/* The reference is for small pages, as template pages are; 32 MiB of them, whatever the template's size. */
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "never");
	if (json)
		printf("[");
	for (size_t mib = 32; mib <= 1024 && mib << 20 <= window.length; mib *= 2) {
		double install[RUNS], after[RUNS], populate[RUNS], ratio[RUNS];
		size_t pages = (mib << 20) / PAGE;

		for (int i = 0; i < RUNS; i++) {
			attach_once(pages, &install[i], &after[i]);
			populate[i] = populate_once((32UL << 20) / PAGE);
			ratio[i] = populate[i] / install[i];
		}
		if (json)
			printf("%s{\"mib\": %zu, \"attach_ns_per_page\": %.1f, \"read_ns_per_page\": %.1f, "
			       "\"populate_ns_per_page\": %.1f, \"ratio\": %.1f}",
			       comma, mib, median(install), median(after), median(populate), median(ratio));
		else
			printf("%5zu MiB: attach %6.1f ns a page, first read %6.1f; populate %7.1f, %.1f times as much\n",
			       mib, median(install), median(after), median(populate), median(ratio));
		comma = ", ";
		fflush(stdout);
	}
	if (json)
		printf("]\n");
	return 0;
}
