// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads read and write while pages are attached, dropped and forked. A
 * reader sees zero, the template's word or the writer's word; nothing else.
 */
#include "moult_test.h"

#include <pthread.h>
#include <stdatomic.h>

#define PAGES 64
#define ROUNDS 300
#define WRITTEN 0x5752495454454eUL

static uint64_t *va;
static atomic_bool stop;
static atomic_long wrong, reads, writes;

static void *reader(void *unused)
{
	size_t page = 0;

	(void)unused;
	while (!atomic_load(&stop)) {
		uint64_t word = *(volatile uint64_t *)(va + page * (PAGE / 8) + 100);

		if (word && word != PATTERN(page + 1) && word != WRITTEN)
			atomic_fetch_add(&wrong, 1);
		atomic_fetch_add(&reads, 1);
		page = (page + 7) % PAGES;
	}
	return NULL;
}

static void *writer(void *unused)
{
	size_t page = 0;

	(void)unused;
	while (!atomic_load(&stop)) {
		*(volatile uint64_t *)(va + page * (PAGE / 8) + 100) = WRITTEN;
		atomic_fetch_add(&writes, 1);
		page = (page + 11) % PAGES;
		sched_yield();
	}
	return NULL;
}

static int look(void *unused)
{
	(void)unused;
	for (size_t page = 0; page < PAGES; page++) {
		uint64_t word = va[page * (PAGE / 8) + 100];

		if (word && word != PATTERN(page + 1) && word != WRITTEN)
			return 1;
	}
	return 0;
}

int main(void)
{
	long attached = 0, refused = 0, other = 0, children = 0;
	struct moult_extent extent;
	pthread_t threads[3];

	setup();
	va = map_pages(PAGES, RW);
	pthread_create(&threads[0], NULL, reader, NULL);
	pthread_create(&threads[1], NULL, reader, NULL);
	pthread_create(&threads[2], NULL, writer, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		size_t first = (size_t)i % (PAGES - 8);
		int err;

		madvise(va + first * (PAGE / 8), 8 * PAGE, MADV_DONTNEED);
		err = attach(va + first * (PAGE / 8), 8, first + 1, RW);
		if (!err)
			attached++;
		else if (err == -EEXIST)
			refused++;
		else
			other++;
		if (i % 10 == 0)
			children += run_child(look, NULL) != 0;
		if (i % 10 == 5) {
			extent = extent_of(0, window_pages());
			if (ioctl(device, MOULT_BUSY, &extent) || extent.mapped > PAGES)
				other++;
		}
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	printf("# %ld attached, %ld met a page, %ld reads, %ld writes\n", attached, refused, atomic_load(&reads),
	       atomic_load(&writes));
	CHECK_EQ(atomic_load(&wrong), 0, "no thread sees a wrong word");
	CHECK_EQ(children, 0, "no child does");
	CHECK_EQ(other, 0, "attach answers 0 or EEXIST, nothing else");
	CHECK(attached > 0 && atomic_load(&writes) > 0, "both happened");
	CHECK(window_intact(1, PAGES), "the window is as before");
	return finish();
}
