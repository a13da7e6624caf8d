// SPDX-License-Identifier: GPL-2.0-only
/* MOULT_KEEP: memory outlives its process, is listed, and is empty when it goes. */
#include "huge.h"

#include <linux/kernel-page-flags.h>
#include <sys/uio.h>

#define PAGES 700
#define SPLIT 16UL	/* huge pages */
#define MARK 0x6b656570UL

static uint64_t flags_of(uint64_t gpa)
{
	uint64_t value = 0;
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &value, 8, (off_t)(gpa / PAGE * 8)) != 8)
		die("/proc/kpageflags");
	close(fd);
	return value;
}

/* A process with memory of its own, and some that it shares with us. */
struct victim {
	pid_t pid;
	int pipe;	/* has one of its pages in it, which we can thus look at */
	char *shared;
};

static void live(int ready, int page_pipe, char *shared)
{
	uint64_t *own = (uint64_t *)map_pages(PAGES, RW);
	char *huge = mmap(NULL, 4 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int memfd = memfd_create("own", MFD_CLOEXEC);
	char *file;
	struct iovec first = { own, PAGE };

	madvise(own, PAGES * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < PAGES * PAGE / 8; i++)
		own[i] = MARK;
	madvise(huge, 4 << 20, MADV_HUGEPAGE);
	memset(huge, 0x5a, 4 << 20);
	memset(shared, 0x11, 10 * PAGE);
	if (ftruncate(memfd, 20 * PAGE))
		die("ftruncate");
	file = mmap(NULL, 20 * PAGE, RW, MAP_SHARED, memfd, 0);
	memset(file, 0x22, 20 * PAGE);
	map_attached(100, 1, RW);
	if (vmsplice(page_pipe, &first, 1, 0) != (ssize_t)PAGE)
		die("vmsplice");
	if (write(ready, "r", 1) != 1)
		die("write");
	for (;;)
		pause();
}

static struct victim start(void)
{
	struct victim victim;
	int ready[2], page[2];
	char byte;

	victim.shared = mmap(NULL, 10 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pipe2(ready, O_CLOEXEC) || pipe2(page, O_CLOEXEC))
		die("pipe");
	victim.pid = fork();
	if (!victim.pid) {
		close(page[0]);
		live(ready[1], page[1], victim.shared);
	}
	close(ready[1]);
	close(page[1]);
	victim.pipe = page[0];
	if (read(ready[0], &byte, 1) != 1)
		die("the victim");
	close(ready[0]);
	return victim;
}

static void end(const struct victim *victim)
{
	kill(victim->pid, SIGKILL);
	waitpid(victim->pid, NULL, 0);
}

static int keep(int fd, pid_t pid)
{
	struct moult_keep call = { .size = sizeof(call), .pid = pid };

	return ioctl(fd, MOULT_KEEP, &call) ? -errno : 0;
}

static struct moult_run runs[MOULT_MAX_RANGES];
static size_t run_count;
static uint64_t frames;

/* All of it, in as many calls as it takes with room for `capacity` runs each. */
static int list(int fd, uint32_t capacity)
{
	struct moult_list call = { .size = sizeof(call), .capacity = capacity };

	run_count = frames = 0;
	while (call.index != MOULT_LIST_END) {
		call.runs = (uint64_t)(uintptr_t)(runs + run_count);
		if (ioctl(fd, MOULT_LIST, &call))
			return -errno;
		run_count += call.count;
		frames += call.frames;
	}
	return 0;
}

static uint64_t sum_of_runs(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < run_count; i++)
		sum += runs[i].length / PAGE;
	return sum;
}

static bool all_used(void)
{
	for (size_t i = 0; i < run_count; i++)
		for (uint64_t at = 0; at < runs[i].length; at += PAGE)
			if (!(flags_of(runs[i].gpa + at) & (1UL << KPF_ANON | 1UL << KPF_SWAPBACKED | 1UL << KPF_COMPOUND_TAIL)))
				return false;
	return true;
}

static bool listed_twice(void)
{
	for (size_t i = 0; i < run_count; i++)
		for (size_t j = i + 1; j < run_count; j++)
			if (runs[i].gpa < runs[j].gpa + runs[j].length && runs[j].gpa < runs[i].gpa + runs[i].length)
				return true;
	return false;
}

static bool in_window(void)
{
	for (size_t i = 0; i < run_count; i++)
		if (runs[i].gpa + runs[i].length > window.gpa && runs[i].gpa < window.gpa + window.length)
			return true;
	return false;
}

/* The page in the pipe begins with it, as the process's did. */
static bool pipe_holds(int fd, uint64_t value)
{
	static uint64_t page[PAGE / 8];

	return read(fd, page, PAGE) == (ssize_t)PAGE && page[0] == value && page[PAGE / 8 - 1] == value;
}

static bool shared_intact(const char *shared)
{
	for (size_t i = 0; i < 10 * PAGE; i++)
		if (shared[i] != 0x11)
			return false;
	return true;
}

static void test_life(void)
{
	struct victim victim = start();
	int fd = open("/dev/moult", O_RDWR | O_CLOEXEC);
	uint64_t whole;

	CHECK_EQ(keep(fd, victim.pid), 0, "keep a process's memory");
	CHECK_EQ(list(fd, MOULT_MAX_RANGES), -EBUSY, "while it lives nothing is listed");
	end(&victim);
	CHECK_EQ(list(fd, 8192), 0, "when it has ended, its frames are");
	whole = frames;
	/* Its own, the huge ones, the memfd; little else. */
	CHECK(frames >= PAGES + 1024 + 20 && frames < PAGES + 1024 + 20 + 400, "all that were its alone");
	CHECK_EQ(sum_of_runs(), frames, "the runs add up");
	CHECK(!listed_twice(), "no frame is there twice");
	CHECK(!in_window(), "nor is one of the window");
	CHECK(all_used(), "and none is free");
	CHECK_EQ(list(fd, 512), 0, "in small pieces");
	CHECK_EQ(frames, whole, "the same comes out");
	CHECK(shared_intact(victim.shared), "what we share is not touched");
	CHECK_EQ(ioctl(fd, MOULT_RELEASE), 0, "release");
	CHECK(!all_used(), "then they are free");
	CHECK(pipe_holds(victim.pipe, MARK), "a release wipes nothing");
	close(fd);
	close(victim.pipe);
	munmap(victim.shared, 10 * PAGE);
}

static void test_wipe(bool listed)
{
	struct victim victim = start();
	int fd = open("/dev/moult", O_RDWR | O_CLOEXEC);

	if (keep(fd, victim.pid))
		die("keep");
	end(&victim);
	if (listed && list(fd, MOULT_MAX_RANGES))
		die("list");
	close(fd);
	CHECK(pipe_holds(victim.pipe, 0), listed ? "a close after a list wipes" : "so does one before it");
	CHECK(shared_intact(victim.shared), "but not what we share");
	close(victim.pipe);
	munmap(victim.shared, 10 * PAGE);
}

static void test_alive(void)
{
	struct victim victim = start();
	int fd = open("/dev/moult", O_RDWR | O_CLOEXEC);

	if (keep(fd, victim.pid))
		die("keep");
	close(fd);
	CHECK(pipe_holds(victim.pipe, MARK), "of one that lives on a close wipes nothing");
	CHECK(kill(victim.pid, 0) == 0 && waitpid(victim.pid, NULL, WNOHANG) == 0, "and it does");
	end(&victim);
	close(victim.pipe);
	munmap(victim.shared, 10 * PAGE);
}

/* The file is closed while the process is there yet, and that ends soon after. */
static void test_late(bool kept_again)
{
	struct victim victim = start();
	int fd = open("/dev/moult", O_RDWR | O_CLOEXEC);
	int other = open("/dev/moult", O_RDWR | O_CLOEXEC);

	if (keep(fd, victim.pid))
		die("keep");
	close(fd);
	if (kept_again && keep(other, victim.pid))
		die("keep again");
	end(&victim);
	if (kept_again) {
		CHECK_EQ(list(other, MOULT_MAX_RANGES), 0, "what was closed early can be kept by another, and listed");
		CHECK(frames >= PAGES, "all of it");
	}
	close(other);
	usleep(2000000);
	CHECK(pipe_holds(victim.pipe, 0), kept_again ? "whose close wipes it" : "what ends soon after a close is wiped, too");
	CHECK(shared_intact(victim.shared), "but not what we share");
	close(victim.pipe);
	munmap(victim.shared, 10 * PAGE);
}

static void test_no_leak(void)
{
	long before = read_number("/proc/meminfo", "MemFree:"), after;

	for (int round = 0; round < 50; round++) {
		struct victim victim = start();
		int fd = open("/dev/moult", O_RDWR | O_CLOEXEC);

		if (keep(fd, victim.pid))
			die("keep");
		end(&victim);
		if (round % 3 && list(fd, MOULT_MAX_RANGES))
			die("list");
		if (round % 2)
			ioctl(fd, MOULT_RELEASE);
		close(fd);
		close(victim.pipe);
		munmap(victim.shared, 10 * PAGE);
	}
	after = read_number("/proc/meminfo", "MemFree:");
	CHECK(before - after < 20 * (PAGES + 1024) * 4, "50 rounds leak nothing");
}

/* Of huge pages that are split while they are listed, all are listed. */
static void test_split(void)
{
	long less = 0, more = 0, failed = 0;
	long before = read_number("/proc/vmstat", "thp_split_page "), split = 0;
	pid_t splitter = start_splitting();

	if (splitter < 0) {
		skip("huge pages that are split meanwhile", "the kernel has no split_huge_pages in debugfs");
		return;
	}
	/* How many are split in a round is up to the scheduler. */
	for (int round = 0; round < 60 || (split < 60 && round < 600); round++) {
		int fd = open("/dev/moult", O_RDWR | O_CLOEXEC), ready[2];
		char byte;
		pid_t pid;

		if (fd < 0 || pipe2(ready, O_CLOEXEC))
			die("set up");
		pid = fork();
		if (!pid) {
			fill_huge(huge_aligned(SPLIT * HUGE_PAGES), SPLIT);
			if (write(ready[1], "r", 1) != 1)
				die("write");
			for (;;)
				pause();
		}
		if (read(ready[0], &byte, 1) != 1 || keep(fd, pid))
			die("keep");
		stop(pid);
		kill(splitter, SIGCONT);
		usleep(round % 20 * 500);
		failed += list(fd, MOULT_MAX_RANGES) != 0;
		less += frames < SPLIT * HUGE_PAGES;
		/* Little else is its own, and not as much as a huge page. */
		more += frames >= SPLIT * HUGE_PAGES + 400 || sum_of_runs() != frames || listed_twice();
		hold(splitter);
		ioctl(fd, MOULT_RELEASE);
		close(fd);
		close(ready[0]);
		close(ready[1]);
		split = read_number("/proc/vmstat", "thp_split_page ") - before;
	}
	stop(splitter);
	CHECK(split >= 60, "huge pages are split while they are listed");
	CHECK_EQ(failed, 0, "huge pages that are split while they are listed are no error");
	CHECK_EQ(less, 0, "all of their frames are listed");
	CHECK_EQ(more, 0, "and none twice");
}

/* A private mapping's pages of hugetlb are its own, too, and go back to where they are from. */
static void test_hugetlb(void)
{
	const char *pool = "/proc/sys/vm/nr_hugepages";
	int fd = open("/dev/moult", O_RDWR | O_CLOEXEC), ready[2];
	char byte;
	pid_t pid;

	if (fd < 0 || pipe2(ready, O_CLOEXEC))
		die("set up");
	if (!write_file(pool, "4") || read_number(pool, "4") < 0) {
		skip("pages of hugetlb", "there is no room for them");
		return;
	}
	pid = fork();
	if (!pid) {
		char *va = mmap(NULL, 4 * HUGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

		if (va == MAP_FAILED)
			die("mmap");
		memset(va, 0x77, 4 * HUGE);
		if (write(ready[1], "r", 1) != 1)
			die("write");
		for (;;)
			pause();
	}
	if (read(ready[0], &byte, 1) != 1 || keep(fd, pid))
		die("keep");
	stop(pid);
	CHECK_EQ(list(fd, MOULT_MAX_RANGES), 0, "list one that has pages of hugetlb");
	CHECK(frames >= 4 * HUGE_PAGES && frames < 4 * HUGE_PAGES + 400, "all of them are listed");
	CHECK(!listed_twice() && sum_of_runs() == frames, "once");
	CHECK_EQ(ioctl(fd, MOULT_RELEASE), 0, "release");
	CHECK(write_file(pool, "0") && read_number(pool, "0") == 0, "then the kernel has them back");
	close(fd);
	close(ready[0]);
	close(ready[1]);
}

static int keep_unprivileged(void *pid)
{
	if (setuid(65534))
		return 1;
	return keep(device, *(pid_t *)pid) == -EPERM ? 0 : 1;
}

static int list_with(int fd, uint32_t capacity, uint32_t flags, void *to)
{
	struct moult_list call = {
		.size = sizeof(call), .flags = flags, .capacity = capacity, .runs = (uint64_t)(uintptr_t)to,
	};

	return ioctl(fd, MOULT_LIST, &call) ? -errno : 0;
}

static void test_arguments(void)
{
	struct moult_extent extent = extent_of(0, 1);
	struct moult_keep call = { .size = sizeof(call), .flags = 1, .pid = 1 };
	struct victim victim = start();
	int fd = open("/dev/moult", O_RDWR | O_CLOEXEC), err = 0, kept = 0;

	CHECK_EQ(keep(fd, 0), -EINVAL, "no pid");
	CHECK_EQ(keep(fd, -1), -EINVAL, "a negative pid");
	CHECK_EQ(keep(fd, getpid()), -EINVAL, "one's own");
	CHECK_EQ(keep(fd, 2), -ESRCH, "a thread of the kernel");
	CHECK_EQ(keep(fd, 4194303), -ESRCH, "a pid that nobody has");
	CHECK(ioctl(fd, MOULT_KEEP, &call) == -1 && errno == EINVAL, "flags");
	CHECK_EQ(list(fd, MOULT_MAX_RANGES), 0, "nothing kept is no error");
	CHECK_EQ(frames, 0, "and lists nothing");
	CHECK_EQ(list_with(fd, 511, 0, runs), -EINVAL, "too little room");
	CHECK_EQ(list_with(fd, MOULT_MAX_RANGES + 1, 0, runs), -E2BIG, "too much");
	CHECK_EQ(list_with(fd, 512, 1, runs), -EINVAL, "flags of a list");
	CHECK_EQ(run_child(keep_unprivileged, &victim.pid), 0, "it takes a capability");
	while (!(err = keep(fd, victim.pid)) && kept < 10000)
		kept++;
	CHECK(err == -E2BIG && kept >= 16, "there is a limit");
	close(fd);
	fd = open("/dev/moult", O_RDWR | O_CLOEXEC);
	if (keep(fd, victim.pid))
		die("keep");
	end(&victim);
	CHECK_EQ(list_with(fd, 512, 0, (void *)8), -EFAULT, "room that is not there");
	CHECK_EQ(list(fd, MOULT_MAX_RANGES), 0, "does no harm");
	close(fd);
	fd = open("/dev/moult", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, MOULT_RESTRICT, &extent))
		die("MOULT_RESTRICT");
	CHECK_EQ(keep(fd, 1), -EPERM, "a descriptor that was narrowed");
	CHECK_EQ(list(fd, 512), -EPERM, "lists nothing, either");
	close(fd);
}

int main(void)
{
	setup();
	test_life();
	test_wipe(false);
	test_wipe(true);
	test_alive();
	test_late(false);
	test_late(true);
	test_no_leak();
	test_split();
	test_hugetlb();
	test_arguments();
	return finish();
}
