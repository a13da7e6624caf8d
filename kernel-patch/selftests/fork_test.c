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

static int child_sees_template(void *unused)
{
	(void)unused;
	return pages_hold_pattern(va, PAGES, 1) ? 0 : 1;
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

int main(void)
{
	int pipes[2], status;
	pid_t pid;

	setup();
	va = map_attached(PAGES, 1, RW);
	CHECK_EQ(run_child(child_sees_template, NULL), 0, "a child sees pages of a mapping that nobody wrote to");
	for (size_t i = 0; i < PAGE / 8; i++)
		((uint64_t *)(va + 4 * PAGE))[i] = 7;
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

	va = map_attached(PAGES, 1, PROT_READ);
	CHECK_EQ(run_child(child_sees_template, NULL), 0, "a child sees read-only template pages");
	return finish();
}
