/* SPDX-License-Identifier: GPL-2.0-only */
/* Huge pages, and somebody who splits them. */
#ifndef MOULT_HUGE_H
#define MOULT_HUGE_H

#include "moult_test.h"

#include <sys/mount.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE (2UL << 20)
#define HUGE_PAGES (HUGE / PAGE)

static inline char *huge_aligned(size_t pages)
{
	char *va = map_pages(pages + HUGE_PAGES, RW);

	return (char *)(((uintptr_t)va + HUGE - 1) & ~(HUGE - 1));
}

static inline long huge_kib(void)
{
	return read_number("/proc/self/smaps_rollup", "AnonHugePages:");
}

/* Writes to each page, so that none is all zeros, which splitting might drop. */
static inline void fill_huge(char *va, size_t count)
{
	madvise(va, count * HUGE, MADV_HUGEPAGE);
	for (size_t i = 0; i < count * HUGE; i += PAGE)
		va[i] = 1;
}

/* Until SIGCONT. */
static inline void hold(pid_t pid)
{
	if (kill(pid, SIGSTOP) || waitpid(pid, NULL, WUNTRACED) != pid)
		die("SIGSTOP");
}

/*
 * A process that splits all huge pages that there are, over and over: like the
 * kernel when it looks for memory, and with nobody's mmap lock. It begins when
 * it is told to go on. -1: none can.
 */
static inline pid_t start_splitting(void)
{
	const char *path = "/sys/kernel/debug/split_huge_pages";
	pid_t pid;

	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	if (!write_file(path, "1"))
		return -1;
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		for (;;) {
			write_file(path, "1");
			usleep(100);
		}
	hold(pid);
	return pid;
}

static inline void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

#endif /* MOULT_HUGE_H */
