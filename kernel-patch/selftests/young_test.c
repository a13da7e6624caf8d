// SPDX-License-Identifier: GPL-2.0-only
/* MOULT_YOUNG tells which pages of a process were touched since that was cleared. */
#include "huge.h"

#define PAGES 200
#define SPLIT 16UL	/* huge pages */
#define MOST_LOOKS 20000	/* at what another process splits meanwhile, which may have no CPU for seconds */

static struct moult_young last_young;
static uint64_t bitmap[MOULT_MAX_YOUNG / 64];

/* 0 or -errno. */
static int look_at(int fd, pid_t pid, const struct moult_span *spans, size_t count, uint32_t flags)
{
	memset(bitmap, 0, sizeof(bitmap));
	last_young = (struct moult_young){
		.size = sizeof(last_young),
		.flags = flags,
		.pid = pid,
		.count = (uint32_t)count,
		.spans = (uint64_t)(uintptr_t)spans,
		.bitmap = (uint64_t)(uintptr_t)bitmap,
	};
	return ioctl(fd, MOULT_YOUNG, &last_young) ? -errno : 0;
}

static struct moult_span span_of(const void *va, size_t pages)
{
	return (struct moult_span){ (uint64_t)(uintptr_t)va, pages * PAGE };
}

static int look(pid_t pid, const void *va, size_t pages, uint32_t flags)
{
	struct moult_span span = span_of(va, pages);

	return look_at(device, pid, &span, 1, flags);
}

static bool is_young(size_t page)
{
	return bitmap[page / 64] >> (page % 64) & 1;
}

/* How many bits are set, which must be what the call counted. */
static long young_pages(void)
{
	long count = 0;

	for (size_t i = 0; i < sizeof(bitmap) / 8; i++)
		count += __builtin_popcountl(bitmap[i]);
	return (uint64_t)count == last_young.young ? count : -1;
}

/*
 * What lies in a TLB is used without a mark. It goes when the protection of
 * the entries changes.
 */
static void flush(char *va, size_t pages, int prot)
{
	if (mprotect(va, pages * PAGE, PROT_NONE) || mprotect(va, pages * PAGE, prot))
		die("mprotect");
}

static void clear(char *va, size_t pages)
{
	if (look(getpid(), va, pages, MOULT_YOUNG_CLEAR))
		die("MOULT_YOUNG");
	flush(va, pages, RW);
}

static char *fill(size_t pages)
{
	char *va = map_pages(pages, RW);

	madvise(va, pages * PAGE, MADV_NOHUGEPAGE);
	memset(va, 0x5a, pages * PAGE);
	return va;
}

static void test_touched(void)
{
	char *va = fill(PAGES);

	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "look at pages that are new");
	CHECK_EQ(young_pages(), PAGES, "all of them were touched");
	CHECK_EQ(look(getpid(), va, PAGES, MOULT_YOUNG_CLEAR), 0, "look and clear");
	CHECK_EQ(young_pages(), PAGES, "it tells what there was before");
	flush(va, PAGES, RW);
	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "look again");
	CHECK_EQ(young_pages(), 0, "none was touched since");
	if (*(volatile char *)(va + 3 * PAGE) != 0x5a)
		die("content");
	va[130 * PAGE] = 1;
	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "after a read and a write");
	CHECK(young_pages() == 2 && is_young(3) && is_young(130), "these two were");
	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "once more");
	CHECK_EQ(young_pages(), 2, "a look clears nothing");
	clear(va, 100);
	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "after half of it was cleared");
	CHECK(young_pages() == 1 && is_young(130), "the other half is as it was");
	CHECK(page_holds(va + 3 * PAGE, 0x5a5a5a5a5a5a5a5aUL) && va[130 * PAGE] == 1, "the content is untouched");
	madvise(va, PAGES * PAGE, MADV_DONTNEED);
	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "look where no pages are");
	CHECK_EQ(young_pages(), 0, "they were not touched");
	va[7 * PAGE] = 1;
	CHECK_EQ(look(getpid(), va, PAGES, 0), 0, "when one comes");
	CHECK(young_pages() == 1 && is_young(7), "it was");
	munmap(va, PAGES * PAGE);
}

static void test_spans(void)
{
	char *va = fill(PAGES);
	struct moult_span spans[4];

	clear(va, PAGES);
	va[10 * PAGE] = va[80 * PAGE] = va[199 * PAGE] = 1;
	munmap(va + 20 * PAGE, 10 * PAGE);
	spans[0] = span_of(va, 5);
	spans[1] = span_of(va + 10 * PAGE, 63);
	spans[2] = span_of(va + 80 * PAGE, 1);
	spans[3] = span_of(va + 190 * PAGE, 10);
	CHECK_EQ(look_at(device, getpid(), spans, 4, 0), 0, "spans with holes, within and between");
	CHECK(young_pages() == 3 && is_young(5) && is_young(68) && is_young(78), "the bits are in their order");

	spans[0] = (struct moult_span){ 0, 1UL << 47 };
	last_young = (struct moult_young){ .size = sizeof(last_young), .pid = getpid(), .count = 1,
					   .spans = (uint64_t)(uintptr_t)spans };
	CHECK_EQ(ioctl(device, MOULT_YOUNG, &last_young), 0, "all of a process, without bits");
	CHECK(last_young.young > 10, "it counts");
	last_young.flags = MOULT_YOUNG_CLEAR;
	CHECK_EQ(ioctl(device, MOULT_YOUNG, &last_young), 0, "clear all of it");
	CHECK_EQ(look(getpid(), va, 20, 0), 0, "look at a part");
	CHECK_EQ(young_pages(), 0, "it was cleared");
	munmap(va, PAGES * PAGE);
}

static void test_kinds(void)
{
	int memfd = memfd_create("young", MFD_CLOEXEC);
	char *attached = map_attached(8, 1, RW), *shared;

	CHECK_EQ(look(getpid(), attached, 8, 0), 0, "look at template pages");
	CHECK_EQ(young_pages(), 0, "an attach is no touch");
	if (!page_holds(attached + 2 * PAGE, PATTERN(3)))
		die("content");
	attached[5 * PAGE] = 1;
	CHECK_EQ(look(getpid(), attached, 8, 0), 0, "after a read and a copy");
	CHECK(young_pages() == 2 && is_young(2) && is_young(5), "these two were");
	munmap(attached, 8 * PAGE);

	if (ftruncate(memfd, 8 * PAGE))
		die("ftruncate");
	shared = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, memfd, 0);
	memset(shared, 1, 8 * PAGE);
	clear(shared, 8);
	shared[4 * PAGE] = 2;
	CHECK_EQ(look(getpid(), shared, 8, 0), 0, "look at shared memory");
	CHECK(young_pages() == 1 && is_young(4), "the page that was written is told");
	munmap(shared, 8 * PAGE);
	close(memfd);
}

static void test_huge(void)
{
	char *va = huge_aligned(HUGE_PAGES);

	fill_huge(va, 1);
	if (huge_kib() <= 0) {
		skip("a huge page", "the kernel gave none");
		return;
	}
	CHECK_EQ(look(getpid(), va, HUGE_PAGES, MOULT_YOUNG_CLEAR), 0, "look at a huge page");
	CHECK_EQ(young_pages(), HUGE_PAGES, "it was touched as a whole");
	flush(va, HUGE_PAGES, RW);
	CHECK_EQ(look(getpid(), va, HUGE_PAGES, 0), 0, "after a clear");
	CHECK_EQ(young_pages(), 0, "it was not");
	va[300 * PAGE] = 1;
	CHECK_EQ(look(getpid(), va + 10 * PAGE, 20, 0), 0, "look at a part, when another was written");
	CHECK_EQ(young_pages(), 20, "that is all of it");
	CHECK(huge_kib() > 0, "and it is still huge");
	munmap(va, HUGE);
}

/* Huge pages that are split while they are looked at were touched all the same. */
static void test_split(void)
{
	pid_t splitter = start_splitting();
	long looks = 0, less = 0, failed = 0, rounds = 0, left = 0;

	if (splitter < 0) {
		skip("huge pages that are split meanwhile", "the kernel has no split_huge_pages in debugfs");
		return;
	}
	for (int round = 0; round < 20; round++) {
		/* Where there were small pages, their tables stay until munmap(). */
		char *va = huge_aligned(SPLIT * HUGE_PAGES);

		fill_huge(va, SPLIT);
		rounds += huge_kib() > 0;
		kill(splitter, SIGCONT);
		for (int i = 0; i < MOST_LOOKS && (i % 32 || huge_kib() > 0); i++, looks++) {
			failed += look(getpid(), va, SPLIT * HUGE_PAGES, 0) != 0;
			less += last_young.young != SPLIT * HUGE_PAGES;
		}
		hold(splitter);
		left += huge_kib() > 0;
		munmap(va, SPLIT * HUGE);
	}
	stop(splitter);
	printf("# %ld looks, %ld rounds with huge pages\n", looks, rounds);
	CHECK(rounds > 0 && !left, "huge pages are split while they are looked at");
	CHECK_EQ(failed, 0, "which is no error");
	CHECK_EQ(less, 0, "and none of their pages ever looks untouched");
}

/* How many times the collapser made a huge page, which the other then may have for small ones. */
static volatile long *collapsed;

/* Of a shared file's pages, in a process of its own. */
static pid_t start_collapser(int memfd)
{
	pid_t pid = fork();
	char *va;

	if (pid)
		return pid;
	va = huge_aligned(SPLIT * HUGE_PAGES);
	if (mmap(va, SPLIT * HUGE, RW, MAP_SHARED | MAP_FIXED, memfd, 0) == MAP_FAILED)
		die("mmap");
	for (;;) {
		for (size_t i = 0; i < SPLIT; i++) {
			va[i * HUGE] = 1;
			*collapsed += !madvise(va + i * HUGE, HUGE, MADV_COLLAPSE);
		}
		if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SPLIT * HUGE))
			die("fallocate");
	}
}

/* Maps the same pages time and again, with a table for each two megabytes. */
static pid_t start_file_user(int memfd)
{
	pid_t pid = fork();
	char *va;

	if (pid)
		return pid;
	va = huge_aligned(SPLIT * SPLIT * HUGE_PAGES);
	for (size_t i = 0; i < SPLIT; i++)
		if (mmap(va + i * SPLIT * HUGE, SPLIT * HUGE, RW, MAP_SHARED | MAP_FIXED, memfd, 0) == MAP_FAILED)
			die("mmap");
	for (;;)
		for (size_t i = 0; i < SPLIT * SPLIT; i++)
			va[i * HUGE] = 1;
}

/* A table of a file's small pages goes when they become a huge one, whoever looks at it. */
static void test_collapse(void)
{
	struct moult_span all = { 0, 1UL << 47 };
	struct moult_young call = { .size = sizeof(call), .count = 1, .spans = (uint64_t)(uintptr_t)&all };
	int memfd = memfd_create("collapse", MFD_CLOEXEC);
	long failed = 0, looks = 0;
	pid_t collapser;

	collapsed = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memfd < 0 || ftruncate(memfd, SPLIT * HUGE))
		die("memfd");
	call.pid = start_file_user(memfd);
	collapser = start_collapser(memfd);
	for (; looks < 3000 || (looks < 20000 && *collapsed < 300); looks++) {
		failed += ioctl(device, MOULT_YOUNG, &call) != 0;
		if (looks % 8 == 0)
			usleep(200); /* else they wait for the lock all the time */
	}
	stop(collapser);
	stop(call.pid);
	printf("# %ld looks, %ld times huge\n", looks, *collapsed);
	if (*collapsed)
		CHECK_EQ(failed, 0, "tables that go when pages become huge are no error");
	else
		skip("tables that go when pages become huge", "the kernel makes none in shared memory");
	close(memfd);
	munmap((void *)collapsed, PAGE);
}

/* Of a process that touches one page of two when it is told to. */
static void test_other(void)
{
	char *va = fill(2), byte = 0;
	int go[2], done[2];
	pid_t pid;

	if (pipe2(go, O_CLOEXEC) || pipe2(done, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (!pid) {
		close(go[1]);
		while (read(go[0], &byte, 1) == 1) {
			flush(va, 2, PROT_READ);
			byte = *(volatile char *)(va + PAGE);
			if (write(done[1], &byte, 1) != 1)
				break;
		}
		_exit(0);
	}
	close(go[0]);
	CHECK_EQ(look(pid, va, 2, MOULT_YOUNG_CLEAR), 0, "clear another process's");
	CHECK_EQ(look(pid, va, 2, 0), 0, "look");
	CHECK_EQ(young_pages(), 0, "it touches nothing");
	if (write(go[1], "g", 1) != 1 || read(done[0], &byte, 1) != 1)
		die("the child");
	CHECK_EQ(look(pid, va, 2, 0), 0, "when it reads one");
	CHECK(young_pages() == 1 && is_young(1), "that one was touched");
	CHECK_EQ(look(getpid(), va, 2, 0), 0, "in the parent, which wrote them");
	CHECK_EQ(young_pages(), 2, "both were, whatever the child's are");
	close(go[1]);
	waitpid(pid, NULL, 0);
	CHECK_EQ(look(pid, va, 2, 0), -ESRCH, "a process that has ended");
	close(done[0]);
	close(done[1]);
	munmap(va, 2 * PAGE);
}

static int look_unprivileged(void *va)
{
	if (setuid(65534))
		return 1;
	return look(getppid(), va, 1, MOULT_YOUNG_CLEAR) == -EPERM ? 0 : 1;
}

static void refuse(struct moult_young call, int want, const char *text)
{
	CHECK_EQ(ioctl(device, MOULT_YOUNG, &call) ? -errno : 0, want, text);
}

static void test_arguments(void)
{
	struct moult_extent extent = extent_of(0, 1);
	char *va = fill(16);
	struct moult_span spans[2] = { span_of(va, 16), span_of(va + 32 * PAGE, 1) };
	struct moult_young good = { .size = sizeof(good), .pid = getpid(), .count = 1, .flags = MOULT_YOUNG_CLEAR,
				    .spans = (uint64_t)(uintptr_t)spans, .bitmap = (uint64_t)(uintptr_t)bitmap }, call;
	int narrow = open("/dev/moult", O_RDWR | O_CLOEXEC);

#define WITH(field, value) (call = good, call.field = (value), call)
	refuse(WITH(size, 8), -EINVAL, "a short struct");
	refuse(WITH(size, 0xffffffff), -E2BIG, "an endless struct");
	refuse(WITH(flags, 2), -EINVAL, "unknown flags");
	refuse(WITH(pid, 0), -EINVAL, "process 0");
	refuse(WITH(pid, -1), -EINVAL, "a negative one");
	refuse(WITH(pid, 1 << 30), -ESRCH, "one that is not there");
	refuse(WITH(pid, 2), -ESRCH, "a thread of the kernel, which has no memory");
	refuse(WITH(count, 0), -EINVAL, "no spans");
	refuse(WITH(count, MOULT_MAX_RANGES + 1), -E2BIG, "too many spans");
	refuse(WITH(count, 0xffffffff), -E2BIG, "very many spans");
	refuse(WITH(spans, 0), -EFAULT, "no array");
	refuse(WITH(spans, 0xffff888000000000UL), -EFAULT, "an array in the kernel");
	CHECK(ioctl(device, MOULT_YOUNG, NULL) == -1 && errno == EFAULT, "no struct");
#undef WITH
#define SPAN(first, bytes) (spans[0] = (struct moult_span){ (first), (bytes) }, good)
	refuse(SPAN((uintptr_t)va + 1, PAGE), -EINVAL, "an unaligned address");
	refuse(SPAN((uintptr_t)va, PAGE + 1), -EINVAL, "an unaligned length");
	refuse(SPAN((uintptr_t)va, 0), -EINVAL, "no length");
	refuse(SPAN(-2 * PAGE, 4 * PAGE), -EINVAL, "an overflow");
	refuse(SPAN((uintptr_t)va, (MOULT_MAX_YOUNG + 1) * PAGE), -E2BIG, "more pages than bits are told of");
	refuse(SPAN((uintptr_t)va, -PAGE), -EINVAL, "a length that overflows");
	good.count = 2;
	refuse(SPAN((uintptr_t)va + 32 * PAGE, 2 * PAGE), -EINVAL, "spans that overlap");
	refuse(SPAN((uintptr_t)va + 64 * PAGE, PAGE), -EINVAL, "spans that fall");
	good.count = 1;
	CHECK_EQ(look(getpid(), va, 16, 0), 0, "after all these");
	CHECK_EQ(young_pages(), 16, "nothing is cleared");
	refuse(SPAN(0xffff800000000000UL, PAGE), 0, "addresses of the kernel's are no error");
	refuse(SPAN(0xffffffffff600000UL, PAGE), 0, "nor is the vsyscall page");
	refuse(SPAN(0x0000900000000000UL, PAGE), 0, "nor those that no address is");
	CHECK_EQ(bitmap[0], 0, "none of them was touched");
#undef SPAN
	spans[0] = span_of(va, 16);
	good.bitmap = 0xffff888000000000UL;
	refuse(good, -EFAULT, "a bitmap in the kernel");
	CHECK_EQ(run_child(look_unprivileged, va), 0, "it takes a capability");
	if (narrow < 0 || ioctl(narrow, MOULT_RESTRICT, &extent))
		die("MOULT_RESTRICT");
	CHECK_EQ(look_at(narrow, getpid(), spans, 1, 0), -EPERM, "and a descriptor that is not narrowed");
	close(narrow);
	munmap(va, 16 * PAGE);
}

static int churn(void *end)
{
	while (!*(volatile char *)end) {
		char *va = map_pages(64, RW);

		memset(va, 1, 64 * PAGE);
		if (mprotect(va + 8 * PAGE, 8 * PAGE, PROT_READ) || munmap(va, 64 * PAGE))
			return 1;
	}
	return 0;
}

/* While the process changes its mappings and dies in the midst of it. */
static void test_race(void)
{
	char *end = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct moult_span all = { 0, 1UL << 47 };
	struct moult_young call = { .size = sizeof(call), .count = 1, .spans = (uint64_t)(uintptr_t)&all };
	bool right = true;

	for (int round = 0; round < 20; round++) {
		pid_t pid = fork();

		if (!pid)
			_exit(churn(end));
		call.pid = pid;
		for (int i = 0; i < 50; i++) {
			call.flags = i % 2 ? MOULT_YOUNG_CLEAR : 0;
			right = right && !ioctl(device, MOULT_YOUNG, &call);
		}
		kill(pid, SIGKILL);
		while (!ioctl(device, MOULT_YOUNG, &call))
			;
		right = right && errno == ESRCH;
		waitpid(pid, NULL, 0);
	}
	CHECK(right, "a process that maps, unmaps and is killed meanwhile");
	munmap(end, PAGE);
}

int main(void)
{
	setup();
	test_touched();
	test_spans();
	test_kinds();
	test_huge();
	test_split();
	test_collapse();
	test_other();
	test_arguments();
	test_race();
	return finish();
}
