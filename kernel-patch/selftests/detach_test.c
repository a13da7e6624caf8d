// SPDX-License-Identifier: GPL-2.0-only
/* MOULT_BUSY counts, MOULT_DETACH refuses, MOULT_RESTRICT narrows. */
#include "moult_test.h"

#include <sched.h>

#define PAGES 64

static long mapped(size_t first, size_t pages)
{
	struct moult_extent extent = extent_of(first, pages);

	return ioctl(device, MOULT_BUSY, &extent) ? -errno : (long)extent.mapped;
}

static int detach(size_t first, size_t pages)
{
	struct moult_extent extent = extent_of(first, pages);

	return ioctl(device, MOULT_DETACH, &extent) ? -errno : 0;
}

static int wait_for_end(void *pipe_end)
{
	char byte;

	return read(*(int *)pipe_end, &byte, 1) == 1 ? 0 : 1;
}

static char stack[65536] __attribute__((aligned(16)));

static void test_counts(void)
{
	int pipes[2], status;
	char *va;
	pid_t pid, sharer;

	CHECK_EQ(mapped(0, window_pages()), 0, "nothing is mapped at first");
	va = map_attached(PAGES, 100, RW);
	CHECK_EQ(mapped(0, window_pages()), PAGES, "each page counts");
	CHECK_EQ(mapped(110, 10), 10, "only of the part that is asked for");
	CHECK_EQ(mapped(300, 100), 0, "and not of another");
	CHECK_EQ(detach(110, 10), -EBUSY, "it cannot be detached");
	CHECK_EQ(detach(300, 100), 0, "another part can");
	if (pipe(pipes))
		die("pipe");
	pid = fork();
	if (!pid)
		_exit(wait_for_end(&pipes[0]));
	CHECK_EQ(mapped(100, PAGES), 2 * PAGES, "a child counts too");
	sharer = clone(wait_for_end, stack + sizeof(stack), CLONE_VM | SIGCHLD, &pipes[0]);
	CHECK_EQ(mapped(100, PAGES), 2 * PAGES, "one that shares our memory does not");
	if (write(pipes[1], "xx", 2) != 2 || waitpid(pid, &status, 0) != pid ||
	    waitpid(sharer, &status, 0) != sharer)
		die("children");
	CHECK_EQ(mapped(100, PAGES), PAGES, "nor one that has ended");
	va[0] = 1;
	CHECK_EQ(mapped(100, PAGES), PAGES - 1, "a copied page is free");
	madvise(va + PAGE, PAGE, MADV_DONTNEED);
	munmap(va + 2 * PAGE, 2 * PAGE);
	CHECK_EQ(mapped(100, PAGES), PAGES - 4, "so are dropped and unmapped ones");
	mprotect(va + 8 * PAGE, 4 * PAGE, PROT_NONE);
	CHECK_EQ(mapped(100, PAGES), PAGES - 4, "inaccessible ones are not");
	munmap(va, PAGES * PAGE);
	CHECK_EQ(detach(100, PAGES), 0, "unmapped, all can be detached");
}

static void test_arguments(void)
{
	struct moult_extent extent = extent_of(1, 1);

	extent.window = 77;
	CHECK(ioctl(device, MOULT_BUSY, &extent) == -1 && errno == ENXIO, "no such window");
	extent = extent_of(window_pages(), 1);
	CHECK(ioctl(device, MOULT_BUSY, &extent) == -1 && errno == ERANGE, "beyond the window");
	extent = extent_of(1, 1);
	extent.offset = 1;
	CHECK(ioctl(device, MOULT_DETACH, &extent) == -1 && errno == EINVAL, "unaligned");
	extent = extent_of(1, 1);
	extent.offset = -PAGE;
	extent.length = 2 * PAGE;
	CHECK(ioctl(device, MOULT_DETACH, &extent) == -1 && errno == ERANGE, "overflowing");
	extent = extent_of(1, 0);
	CHECK(ioctl(device, MOULT_DETACH, &extent) == -1 && errno == EINVAL, "empty");
}

static void test_restrict(void)
{
	struct moult_extent extent = extent_of(50, 10);
	char *va = map_pages(20, RW);
	int whole = device;

	device = open("/dev/moult", O_RDWR | O_CLOEXEC);
	CHECK_EQ(ioctl(device, MOULT_RESTRICT, &extent), 0, "narrow a descriptor");
	CHECK_EQ(attach(va, 10, 50, RW), 0, "what is left can be attached");
	CHECK_EQ(attach(va + 10 * PAGE, 1, 49, RW), -EPERM, "the page before cannot");
	CHECK_EQ(attach(va + 10 * PAGE, 1, 60, RW), -EPERM, "nor the one after");
	CHECK_EQ(attach(va + 10 * PAGE, 2, 59, RW), -EPERM, "nor half and half");
	extent = extent_of(50, 11);
	CHECK(ioctl(device, MOULT_RESTRICT, &extent) == -1 && errno == EPERM, "it cannot be widened");
	extent = extent_of(52, 2);
	CHECK_EQ(ioctl(device, MOULT_RESTRICT, &extent), 0, "but narrowed again");
	CHECK_EQ(attach(va + 10 * PAGE, 1, 50, RW), -EPERM, "which takes away more");
	close(device);
	device = whole;
	CHECK_EQ(attach(va + 10 * PAGE, 1, 50, RW), 0, "other descriptors are not concerned");
	munmap(va, 20 * PAGE);
}

int main(void)
{
	setup();
	test_counts();
	test_arguments();
	test_restrict();
	CHECK_EQ(detach(0, window_pages()), 0, "in the end the whole window is free");
	return finish();
}
