// SPDX-License-Identifier: GPL-2.0-only
/* fork() shares template pages and keeps copy-on-write on both sides. */
#include "moult_test.h"

#define PAGES 32

static char *va;

static int child_sees_all(void *unused)
{
	(void)unused;
	return pages_hold_pattern(va, 4, 1) && page_holds(va + 4 * PAGE, 7) &&
	       pages_hold_pattern(va + 5 * PAGE, PAGES - 5, 6) ? 0 : 1;
}

static int grandchild(void *unused)
{
	if (child_sees_all(unused))
		return 1;
	return run_child(child_sees_all, unused) ? 2 : 0;
}

static int child_writes(void *unused)
{
	(void)unused;
	for (size_t i = 0; i < PAGES * PAGE / 8; i++)
		((uint64_t *)va)[i] = 9;
	return page_holds(va + 20 * PAGE, 9) ? 0 : 1;
}

static int parent_wrote(void *pipe_end)
{
	char byte;

	if (read(*(int *)pipe_end, &byte, 1) != 1)
		return 2;
	return page_holds(va + 10 * PAGE, PATTERN(11)) ? 0 : 1;
}

static void test_mapping(const char *how, uint32_t flags)
{
	int pipes[2], status;
	struct moult_range range;
	pid_t pid;

	printf("# %s\n", how);
	va = map_pages(PAGES, RW);
	range = range_of(va, PAGES, 1, RW);
	CHECK_EQ(attach_ranges(&range, 1, flags), 0, "attach");
	if (!flags)
		for (size_t i = 0; i < PAGE / 8; i++)
			((uint64_t *)(va + 4 * PAGE))[i] = 7;
	if (flags) {
		CHECK(run_child(child_sees_all, NULL) == 256, "(no page is written yet)");
		for (size_t i = 0; i < PAGE / 8; i++)
			((uint64_t *)(va + 4 * PAGE))[i] = 7;
	}
	CHECK_EQ(run_child(child_sees_all, NULL), 0, "a child sees template and written pages");
	CHECK_EQ(run_child(grandchild, NULL), 0, "so does a grandchild");
	CHECK_EQ(run_child(child_writes, NULL), 0, "a child can write to all of them");
	CHECK_EQ(child_sees_all(NULL), 0, "which the parent does not see");
	if (pipe(pipes))
		die("pipe");
	pid = fork();
	if (!pid)
		_exit(parent_wrote(&pipes[0]));
	va[10 * PAGE] = 1;
	if (write(pipes[1], "x", 1) != 1 || waitpid(pid, &status, 0) != pid)
		die("child");
	CHECK_EQ(status, 0, "what the parent writes later, a child does not see");
	CHECK(window_intact(1, PAGES), "the window is as before");
	munmap(va, PAGES * PAGE);
}

int main(void)
{
	setup();
	test_mapping("ordinary", 0);
	test_mapping("lazy", MOULT_ATTACH_LAZY);

	/* A lazy mapping of which nothing was written. */
	va = map_pages(PAGES, RW);
	struct moult_range range = range_of(va, PAGES, 1, RW);
	CHECK_EQ(attach_ranges(&range, 1, MOULT_ATTACH_LAZY), 0, "lazy attach");
	CHECK(killed_by(run_child(write_byte, NULL), SIGSEGV), "(a child can crash)");
	int status = run_child(read_byte, va);
	CHECK_EQ(status, 0, "a child of it lives");
	return finish();
}
