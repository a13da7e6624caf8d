// SPDX-License-Identifier: GPL-2.0-only
/* Heap and stack that hold template pages go on growing and shrinking. */
#include "moult_test.h"

static void test_heap(void)
{
	char *start = sbrk(0), *heap;

	start = (char *)(((uintptr_t)start + PAGE - 1) & ~(PAGE - 1));
	if (brk(start + 64 * PAGE))
		die("brk");
	heap = start + 16 * PAGE;
	CHECK_EQ(attach(heap, 32, 1, RW), 0, "attach in the heap");
	CHECK(pages_hold_pattern(heap, 32, 1), "it shows");
	CHECK_EQ(brk(start + 256 * PAGE), 0, "the heap grows");
	start[200 * PAGE] = 1;
	CHECK(pages_hold_pattern(heap, 32, 1), "the content stays");
	CHECK_EQ(brk(start + 24 * PAGE), 0, "it shrinks into the template pages");
	CHECK(pages_hold_pattern(heap, 8, 1), "those before stay");
	CHECK_EQ(brk(start + 64 * PAGE), 0, "it grows again");
	CHECK(page_holds(start + 30 * PAGE, 0), "what comes is zero");
	heap[0] = 1;
	CHECK(window_intact(1, 32), "the window is as before");
}

static void test_stack(void)
{
	char *stack = mmap(NULL, 64 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);

	/* Leave room below: the kernel keeps a gap of 256 pages to a neighbour. */
	if (stack == MAP_FAILED)
		die("MAP_GROWSDOWN");
	CHECK_EQ(attach(stack, 64, 1, RW), 0, "attach in a stack");
	CHECK(pages_hold_pattern(stack, 64, 1), "it shows");
	stack[10 * PAGE] = 1;
	CHECK(pages_hold_pattern(stack + 11 * PAGE, 53, 12), "and is copy-on-write");
	munmap(stack, 64 * PAGE);
	stack = mmap((void *)0x200000000000UL, 64 * PAGE, RW,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
	if (stack == MAP_FAILED)
		die("MAP_GROWSDOWN");
	CHECK_EQ(attach(stack, 64, 1, RW), 0, "attach in a stack with room below");
	stack[-10 * (long)PAGE] = 1;
	CHECK(pages_hold_pattern(stack, 64, 1), "it grows downwards and keeps its content");
}

int main(void)
{
	setup();
	test_heap();
	test_stack();
	return finish();
}
