// SPDX-License-Identifier: GPL-2.0-only
/* Many attaches and exits leave nothing behind. */
#include "moult_test.h"

#include <sched.h>

#define WARM_UP 300
#define SLACK_KIB 3072
#define ROUNDS 700
#define TRIES 3
#define PAGES 256

static int one_life(void *unused)
{
	char *va = map_attached(PAGES, 1, RW);

	(void)unused;
	va[3 * PAGE] = 1;
	munmap(va + 10 * PAGE, 20 * PAGE);
	madvise(va + 40 * PAGE, 10 * PAGE, MADV_DONTNEED);
	return run_child(write_byte, va + 50 * PAGE);
}

static long available_kib(void)
{
	sync();
	write_file("/proc/sys/vm/drop_caches", "3");
	return read_number("/proc/meminfo", "MemAvailable:");
}

/* What ended in the last moment comes back a little later. */
static long available_again(long before)
{
	long now = available_kib();

	for (int i = 0; i < 50 && before - now >= SLACK_KIB; i++) {
		usleep(100000);
		now = available_kib();
	}
	return now;
}

int main(void)
{
	struct moult_extent all;
	long before, after = 0;
	int failed = 0, grew = 1;

	setup();
	for (int i = 0; i < WARM_UP; i++)
		failed += run_child(one_life, NULL) != 0;
	/*
	 * By now the kernel has made what it keeps for later, or makes it once
	 * more: what leaks does so every time.
	 */
	for (int try = 0; try < TRIES && grew; try++) {
		before = available_kib();
		for (int i = 0; i < ROUNDS; i++)
			failed += run_child(one_life, NULL) != 0;
		after = available_again(before);
		printf("# MemAvailable %ld KiB, then %ld KiB\n", before, after);
		grew = before - after >= SLACK_KIB;
	}
	CHECK_EQ(failed, 0, "1000 processes and more attach, fork, write and exit");
	CHECK(!grew, "MemAvailable is back");

	grew = 1;
	for (int try = 0; try < TRIES && grew; try++) {
		before = after;
		for (int i = 0; i < ROUNDS; i++)
			munmap(map_attached(PAGES, 1, RW), PAGES * PAGE);
		after = available_again(before);
		printf("# MemAvailable %ld KiB after as many in one process\n", after);
		grew = before - after >= SLACK_KIB;
	}
	CHECK(!grew, "also after as many attaches in one process");
	all = extent_of(0, window_pages());
	CHECK_EQ(ioctl(device, MOULT_DETACH, &all), 0, "the whole window can be detached");
	CHECK(!all.mapped && !all.pinned, "nothing refers to it");
	CHECK(window_intact(1, PAGES), "the window is as before");
	return finish();
}
