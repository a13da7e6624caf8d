// SPDX-License-Identifier: GPL-2.0-only
/* MOULT_HOLD keeps frames where they are, and from anybody else. */
#include "moult_test.h"

#include <linux/kernel-page-flags.h>

#define PAGES 256

static uint64_t read_u64(const char *path, uint64_t index)
{
	uint64_t value = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &value, 8, (off_t)(index * 8)) != 8)
		die(path);
	close(fd);
	return value;
}

static uint64_t frame_of(const void *va)
{
	uint64_t entry = read_u64("/proc/self/pagemap", (uintptr_t)va / PAGE);

	return entry >> 63 ? entry & ((1UL << 55) - 1) : 0;
}

/* As somebody's memory; one that is free, on whatever list, has none of these. */
static bool is_used(uint64_t frame)
{
	return read_u64("/proc/kpageflags", frame) & (1UL << KPF_ANON | 1UL << KPF_SWAPBACKED);
}

static struct moult_hold last_hold;
static uint64_t bitmap[PAGES / 64];

/* 0 or -errno. */
static int hold_on(int fd, const struct moult_run *runs, size_t count)
{
	memset(bitmap, 0, sizeof(bitmap));
	last_hold = (struct moult_hold){
		.size = sizeof(last_hold),
		.count = (uint32_t)count,
		.runs = (uint64_t)(uintptr_t)runs,
		.bitmap = (uint64_t)(uintptr_t)bitmap,
	};
	return ioctl(fd, MOULT_HOLD, &last_hold) ? -errno : 0;
}

static char *fill(size_t pages)
{
	char *va = map_pages(pages, RW);

	madvise(va, pages * PAGE, MADV_NOHUGEPAGE);
	memset(va, 0x5a, pages * PAGE);
	return va;
}

static void frames_of(const char *va, size_t pages, struct moult_run *runs)
{
	for (size_t i = 0; i < pages; i++)
		runs[i] = (struct moult_run){ frame_of(va + i * PAGE) * PAGE, PAGE };
}

static bool same_frames(const char *va, const struct moult_run *runs)
{
	for (size_t i = 0; i < PAGES; i++)
		if (frame_of(va + i * PAGE) * PAGE != runs[i].gpa)
			return false;
	return true;
}

static size_t used_frames(const struct moult_run *runs)
{
	size_t count = 0;

	for (size_t i = 0; i < PAGES; i++)
		count += is_used(runs[i].gpa / PAGE);
	return count;
}

static void test_stays(void)
{
	struct moult_run runs[PAGES];
	char *va = fill(PAGES), *other = fill(PAGES);

	frames_of(va, PAGES, runs);
	CHECK_EQ(hold_on(device, runs, PAGES), 0, "hold the frames of a mapping");
	CHECK_EQ(last_hold.held, PAGES, "all of them");
	CHECK(bitmap[0] == ~0UL && bitmap[PAGES / 64 - 1] == ~0UL, "and each is named");
	/* Its pages lie between free ones now, which is what compaction looks for. */
	munmap(other, PAGES * PAGE);
	if (!write_file("/proc/sys/vm/compact_memory", "1"))
		skip("compaction does not move them", "this kernel has none");
	else
		CHECK(same_frames(va, runs), "compaction does not move them");
	va[0] = 1;
	CHECK(va[0] == 1 && same_frames(va, runs), "a write does not copy them");
	munmap(va, PAGES * PAGE);
	write_file("/proc/sys/vm/compact_memory", "1");
	CHECK_EQ(used_frames(runs), PAGES, "unmapped, none becomes free");
	CHECK_EQ(ioctl(device, MOULT_RELEASE), 0, "release");
	CHECK(used_frames(runs) < PAGES / 2, "then they do");
	CHECK_EQ(ioctl(device, MOULT_RELEASE), 0, "nothing to release is no error");
}

static void test_close(void)
{
	struct moult_run runs[PAGES];
	char *va = fill(PAGES);
	int own = open("/dev/moult", O_RDWR | O_CLOEXEC);

	frames_of(va, PAGES, runs);
	CHECK_EQ(hold_on(own, runs, PAGES), 0, "hold on another descriptor");
	CHECK_EQ(hold_on(own, runs, 3), 0, "once more, in part");
	CHECK_EQ(last_hold.held, 3, "which counts by itself");
	munmap(va, PAGES * PAGE);
	CHECK_EQ(used_frames(runs), PAGES, "its close has not come");
	close(own);
	CHECK(used_frames(runs) < PAGES / 2, "its close lets go of both");
}

static void test_no_leak(void)
{
	long before = read_number("/proc/meminfo", "MemFree:"), after;

	for (int round = 0; round < 200; round++) {
		struct moult_run runs[PAGES];
		char *va = fill(PAGES);

		frames_of(va, PAGES, runs);
		if (hold_on(device, runs, PAGES) || last_hold.held != PAGES)
			die("hold");
		munmap(va, PAGES * PAGE);
		ioctl(device, MOULT_RELEASE);
	}
	after = read_number("/proc/meminfo", "MemFree:");
	CHECK(before - after < 50 * PAGES * 4 / 2, "200 rounds of 1 MiB leak nothing");
}

static int hold_unprivileged(void *run)
{
	if (setuid(65534))
		return 1;
	return hold_on(device, run, 1) == -EPERM ? 0 : 1;
}

static void test_arguments(void)
{
	struct moult_extent extent = extent_of(0, 1);
	struct moult_run runs[2];
	char *va = fill(1);
	int narrow = open("/dev/moult", O_RDWR | O_CLOEXEC);

	frames_of(va, 1, runs);
	runs[1] = (struct moult_run){ window.gpa, PAGE };
	CHECK_EQ(hold_on(device, runs, 2), 0, "a window's page is no error");
	CHECK(last_hold.held == 1 && bitmap[0] == 1, "but is not held");
	runs[1].gpa = 1UL << 51;
	CHECK_EQ(hold_on(device, runs, 2), 0, "nor is an address without RAM");
	CHECK(last_hold.held == 1 && bitmap[0] == 1, "which is not held either");
	runs[1] = (struct moult_run){ runs[0].gpa + 1, PAGE };
	CHECK_EQ(hold_on(device, runs, 2), -EINVAL, "unaligned");
	runs[1] = (struct moult_run){ runs[0].gpa, 0 };
	CHECK_EQ(hold_on(device, runs, 2), -EINVAL, "empty");
	runs[1] = (struct moult_run){ -PAGE, 2 * PAGE };
	CHECK_EQ(hold_on(device, runs, 2), -EINVAL, "overflowing");
	runs[1] = (struct moult_run){ 0, MOULT_MAX_HOLD * PAGE };
	CHECK_EQ(hold_on(device, runs, 2), -E2BIG, "too many frames");
	CHECK_EQ(hold_on(device, runs, 0), -EINVAL, "none");
	CHECK_EQ(hold_on(device, runs, MOULT_MAX_RANGES + 1UL), -E2BIG, "too many runs");
	CHECK_EQ(hold_on(device, (void *)8, 1), -EFAULT, "runs that are not there");
	last_hold.runs = (uint64_t)(uintptr_t)runs;
	last_hold.count = 1;
	last_hold.bitmap = 8;
	CHECK(ioctl(device, MOULT_HOLD, &last_hold) == -1 && errno == EFAULT, "nor the bitmap");
	CHECK_EQ(run_child(hold_unprivileged, runs), 0, "it takes a capability");
	if (narrow < 0 || ioctl(narrow, MOULT_RESTRICT, &extent))
		die("MOULT_RESTRICT");
	CHECK_EQ(hold_on(narrow, runs, 1), -EPERM, "and a descriptor that is not narrowed");
	close(narrow);
	ioctl(device, MOULT_RELEASE);
	munmap(va, PAGE);
}

int main(void)
{
	setup();
	test_stays();
	test_close();
	test_no_leak();
	test_arguments();
	return finish();
}
