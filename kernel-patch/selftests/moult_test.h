/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every test of the driver needs: TAP output, the device, mappings.
 *
 * The host fills the window before the tests: each 8 bytes of page i hold
 * PATTERN(i), but for the last page, which begins with machine code (exec_test).
 */
#ifndef MOULT_TEST_H
#define MOULT_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/moult.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define PATTERN(i) (0x4d6f756c74000000UL | (uint64_t)(i))
#define RW (PROT_READ | PROT_WRITE)

static int tests_run, tests_failed;

static inline void report(bool good, const char *file, int line, const char *what, long got)
{
	tests_run++;
	if (good) {
		printf("ok %d %s\n", tests_run, what);
	} else {
		tests_failed++;
		printf("not ok %d %s\n# %s:%d: got %ld, errno %d\n", tests_run, what, file,
		       line, got, errno);
	}
	fflush(stdout);
}

/* The text is the behaviour that is promised. */
#define CHECK(condition, text) report(condition, __FILE__, __LINE__, text, 0)
#define CHECK_EQ(got, want, text)                                                  \
	do {                                                                       \
		long got_ = (long)(got);                                           \
		report(got_ == (long)(want), __FILE__, __LINE__, text, got_);      \
	} while (0)

static inline void skip(const char *what, const char *why)
{
	printf("ok %d %s # SKIP %s\n", ++tests_run, what, why);
	fflush(stdout);
}

static inline int finish(void)
{
	printf("1..%d\n", tests_run);
	return tests_failed ? 1 : 0;
}

static inline void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(2);
}

static int device = -1;
static struct moult_window window;

static inline void setup(void)
{
	struct moult_info info = {
		.size = sizeof(info),
		.window_capacity = 1,
		.windows = (uint64_t)(uintptr_t)&window,
	};

	device = open("/dev/moult", O_RDWR | O_CLOEXEC);
	if (device < 0)
		die("/dev/moult");
	if (ioctl(device, MOULT_INFO, &info) || !info.window_count)
		die("MOULT_INFO: no window");
}

static inline bool has_struct_pages(void)
{
	return window.flags & MOULT_WINDOW_STRUCT_PAGES;
}

static inline size_t window_pages(void)
{
	return window.length / PAGE;
}

static inline void *map_pages(size_t pages, int prot)
{
	void *va = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (va == MAP_FAILED)
		die("mmap");
	return va;
}

static inline struct moult_range range_of(const void *va, size_t pages, size_t window_page, int prot)
{
	struct moult_range range = {
		.va = (uint64_t)(uintptr_t)va,
		.length = pages * PAGE,
		.window_offset = window_page * PAGE,
		.prot = (uint32_t)prot,
		.window = window.id,
	};

	return range;
}

static struct moult_attach last_attach;

/* 0 or -errno. */
static inline int attach_ranges(struct moult_range *ranges, size_t count, uint32_t flags)
{
	last_attach = (struct moult_attach){
		.size = sizeof(last_attach),
		.flags = flags,
		.count = (uint32_t)count,
		.ranges = (uint64_t)(uintptr_t)ranges,
	};
	return ioctl(device, MOULT_ATTACH, &last_attach) ? -errno : 0;
}

static inline int attach(const void *va, size_t pages, size_t window_page, int prot)
{
	struct moult_range range = range_of(va, pages, window_page, prot);

	return attach_ranges(&range, 1, 0);
}

/* A fresh mapping that shows window pages from first on. */
static inline char *map_attached(size_t pages, size_t first, int prot)
{
	char *va = map_pages(pages, prot);
	int err = attach(va, pages, first, prot);

	if (err) {
		errno = -err;
		die("MOULT_ATTACH");
	}
	return va;
}

static inline bool page_holds(const void *page, uint64_t value)
{
	const volatile uint64_t *words = page;

	for (size_t i = 0; i < PAGE / sizeof(*words); i++)
		if (words[i] != value)
			return false;
	return true;
}

static inline bool pages_hold_pattern(const void *va, size_t pages, size_t first)
{
	for (size_t i = 0; i < pages; i++)
		if (!page_holds((const char *)va + i * PAGE, PATTERN(first + i)))
			return false;
	return true;
}

/* What the window itself holds, seen through a mapping of its own. */
static inline bool window_intact(size_t first, size_t pages)
{
	char *va = map_attached(pages, first, PROT_READ);
	bool intact = pages_hold_pattern(va, pages, first);

	munmap(va, pages * PAGE);
	return intact;
}

static inline struct moult_extent extent_of(size_t first, size_t pages)
{
	struct moult_extent extent = {
		.size = sizeof(extent),
		.window = window.id,
		.offset = first * PAGE,
		.length = pages * PAGE,
	};

	return extent;
}

/* In a child: true if body(argument) returned 0. A signal is false. */
static inline int run_child(int (*body)(void *), void *argument)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		_exit(body(argument));
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return status;
}

static inline int write_byte(void *at)
{
	*(volatile char *)at = 1;
	return 0;
}

static inline int read_byte(void *at)
{
	return *(volatile char *)at == 0x7f;
}

static inline bool killed_by(int status, int signal)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

static inline long read_number(const char *path, const char *key)
{
	char line[256];
	FILE *file = fopen(path, "re");
	long value = -1;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, key, strlen(key))) {
			value = strtol(line + strlen(key), NULL, 10);
			break;
		}
	}
	fclose(file);
	return value;
}

static inline bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return good;
}

#endif /* MOULT_TEST_H */
