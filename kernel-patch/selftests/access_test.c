// SPDX-License-Identifier: GPL-2.0-only
/*
 * Others look at, and write to, untouched template pages: process_vm_readv,
 * /proc/PID/mem, ptrace. With struct pages they can. Without, reading is an
 * error; writing is not tried, since the kernel then copies from the wrong
 * process, or warns (see moult.rst).
 */
#include "moult_test.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define PAGES 8

static char *va;
static char buffer[PAGES * PAGE];

static pid_t start_child(void)
{
	int ready[2];
	pid_t pid;

	if (pipe(ready))
		die("pipe");
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		va = map_attached(PAGES, 1, RW);
		if (write(ready[1], &va, sizeof(va)) != sizeof(va))
			_exit(2);
		for (;;)
			pause();
	}
	if (read(ready[0], &va, sizeof(va)) != sizeof(va))
		die("child");
	return pid;
}

static void test_process_vm(pid_t pid)
{
	struct iovec local = { buffer, sizeof(buffer) }, remote = { va, sizeof(buffer) };
	ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);

	if (!has_struct_pages()) {
		CHECK(got == -1 && errno == EFAULT, "process_vm_readv fails cleanly without struct pages");
		return;
	}
	CHECK_EQ(got, sizeof(buffer), "process_vm_readv of untouched pages");
	CHECK(pages_hold_pattern(buffer, PAGES, 1), "reads the template");
	local.iov_len = remote.iov_len = 8;
	memcpy(buffer, "modified", 8);
	CHECK_EQ(process_vm_writev(pid, &local, 1, &remote, 1, 0), 8, "process_vm_writev into one");
	memset(buffer, 0, 8);
	CHECK_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), 8, "and back");
	CHECK(!memcmp(buffer, "modified", 8), "finds what was written");
	local.iov_len = remote.iov_len = PAGE;
	CHECK_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), PAGE, "and the whole page");
	memcpy(buffer, &(uint64_t){ PATTERN(1) }, 8);
	CHECK(page_holds(buffer, PATTERN(1)), "in which all else is the template's");
	CHECK(window_intact(1, PAGES), "the window is as before");
}

static void test_proc_mem(pid_t pid)
{
	char path[64];
	int fd;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(path);
	got = pread(fd, buffer, PAGE, (off_t)(uintptr_t)(va + PAGE));
	if (!has_struct_pages()) {
		CHECK(got == -1 && errno == EIO, "/proc/PID/mem fails cleanly without struct pages");
	} else {
		CHECK_EQ(got, PAGE, "/proc/PID/mem can be read");
		CHECK(page_holds(buffer, PATTERN(2)), "and shows the template");
		CHECK_EQ(pwrite(fd, "abcdefgh", 8, (off_t)(uintptr_t)(va + PAGE)), 8, "and written");
		CHECK(window_intact(1, PAGES), "the window is as before");
	}
	close(fd);
}

static void test_ptrace(pid_t pid)
{
	uint64_t word;
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0) ||
	    waitpid(pid, &status, 0) != pid)
		die("ptrace");
	errno = 0;
	word = (uint64_t)ptrace(PTRACE_PEEKDATA, pid, va + 2 * PAGE, 0);
	if (!has_struct_pages()) {
		CHECK_EQ(errno, EIO, "PTRACE_PEEKDATA fails cleanly without struct pages");
	} else {
		CHECK_EQ(word, PATTERN(3), "PTRACE_PEEKDATA sees the template");
		CHECK_EQ(ptrace(PTRACE_POKEDATA, pid, va + 2 * PAGE, 77UL), 0, "PTRACE_POKEDATA");
		CHECK_EQ(ptrace(PTRACE_PEEKDATA, pid, va + 2 * PAGE, 0), 77, "is seen");
		CHECK_EQ(ptrace(PTRACE_PEEKDATA, pid, va + 2 * PAGE + 8, 0), PATTERN(3), "and nothing else changed");
		CHECK(window_intact(1, PAGES), "the window is as before");
	}
	ptrace(PTRACE_DETACH, pid, 0, 0);
}

int main(void)
{
	pid_t pid;

	setup();
	pid = start_child();
	test_process_vm(pid);
	test_proc_mem(pid);
	test_ptrace(pid);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return finish();
}
