// SPDX-License-Identifier: GPL-2.0-only
/* Memory pressure without swap, in a cgroup far smaller than the template. */
#include "moult_test.h"

#include <sys/stat.h>

#define GROUP "/sys/fs/cgroup/moult-reclaim"
#define LIMIT (32L << 20)
#define PAGES 32768 /* 128 MiB */

static long current_bytes(void)
{
	return read_number(GROUP "/memory.current", "");
}

static int inside(void *unused)
{
	char *va;
	long before, after;

	(void)unused;
	if (!write_file(GROUP "/cgroup.procs", "0"))
		return 2;
	before = current_bytes();
	va = map_attached(PAGES, 1, RW);
	if (!pages_hold_pattern(va, PAGES, 1))
		return 3;
	after = current_bytes();
	/* Page tables are charged: 8 bytes a page, and some slack. */
	if (after - before > PAGES * 8 + (2 << 20))
		return 4;
	for (size_t i = 0; i < 2048; i++)
		va[i * PAGE] = 1;
	if (current_bytes() - after < (4 << 20))
		return 5;
	/* Everything that can be reclaimed goes; the answer says if that was enough, which it is not. */
	write_file(GROUP "/memory.reclaim", "64M");
	write_file("/proc/sys/vm/drop_caches", "3");
	write_file("/proc/sys/vm/compact_memory", "1");
	if (!pages_hold_pattern(va + 2048 * PAGE, PAGES - 2048, 2049))
		return 6;
	for (size_t i = 0; i < 2048; i++)
		if (va[i * PAGE] != 1 || *(uint64_t *)(va + i * PAGE + 8) != PATTERN(i + 1))
			return 7;
	/* Now more than the limit: the kernel's last word. */
	for (size_t i = 0; i < PAGES; i++)
		va[i * PAGE] = 1;
	return 8;
}

static void test_with(const char *lru, const char *name)
{
	int status;

	printf("# %s\n", name);
	if (!write_file("/sys/kernel/mm/lru_gen/enabled", lru)) {
		skip("reclaim with this LRU", "the kernel has no multi-generation LRU");
		return;
	}
	if (mkdir(GROUP, 0755) || !write_file(GROUP "/memory.max", "33554432"))
		die(GROUP);
	status = run_child(inside, NULL);
	/* It ends by the OOM killer, and only there: every other outcome is an exit code. */
	CHECK(killed_by(status, SIGKILL), "template pages are neither charged nor reclaimed, copies are charged");
	if (!killed_by(status, SIGKILL))
		printf("# status %#x\n", status);
	if (rmdir(GROUP))
		die("rmdir");
	CHECK(window_intact(1, 2048), "the window is as before");
}

int main(void)
{
	setup();
	mkdir("/sys/fs/cgroup", 0755);
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (access("/sys/fs/cgroup/cgroup.controllers", R_OK))
		die("cgroup2");
	test_with("0", "classic LRU");
	test_with("7", "multi-generation LRU");
	return finish();
}
