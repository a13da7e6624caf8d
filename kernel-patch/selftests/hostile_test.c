// SPDX-License-Identifier: GPL-2.0-only
/* Every wrong MOULT_ATTACH gets an error, and changes nothing. */
#include "moult_test.h"

#include <dirent.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#define PAGES 16
/* Newer than this libc. */
#define SYS_mseal_number 462
#define MAP_DROPPABLE_TYPE 0x08

static char *va;

static bool untouched(void)
{
	return page_holds(va, 0x1111111111111111UL) && page_holds(va + (PAGES - 1) * PAGE, 0);
}

static void refuse(struct moult_range range, int want, const char *text)
{
	int got = attach_ranges(&range, 1, 0);

	CHECK_EQ(got, want, text);
	if (!untouched() || last_attach.attached)
		CHECK(false, "and changes nothing");
}

static void test_numbers(void)
{
	struct moult_range good = range_of(va + PAGE, 2, 1, RW), range;

#define WITH(field, value) (range = good, range.field = (value), range)
	refuse(WITH(va, good.va + 1), -EINVAL, "unaligned address");
	refuse(WITH(length, PAGE + 1), -EINVAL, "unaligned length");
	refuse(WITH(length, 0), -EINVAL, "no length");
	refuse(WITH(window_offset, 8), -EINVAL, "unaligned window offset");
	refuse(WITH(va, -2 * PAGE), -EINVAL, "address and length overflow");
	refuse(WITH(length, -PAGE), -EINVAL, "length overflows");
	refuse(WITH(window_offset, -PAGE), -ERANGE, "offset and length overflow");
	refuse(WITH(window_offset, window.length), -ERANGE, "behind the window");
	refuse(WITH(window_offset, window.length - PAGE), -ERANGE, "partly behind the window");
	refuse(WITH(window_offset, 1UL << 62), -ERANGE, "far behind the window");
	refuse(WITH(window, window.id + 100), -ENXIO, "no such window");
	refuse(WITH(prot, 0x10), -EINVAL, "unknown protection bits");
	refuse(WITH(prot, PROT_READ), -EACCES, "less protection than the mapping has");
	refuse(WITH(prot, RW | PROT_EXEC), -EACCES, "more than it has");
	refuse(WITH(va, 0xffff800000000000UL), -ENOMEM, "a kernel address");
	refuse(WITH(va, 0xffffffffff600000UL), -ENOMEM, "the vsyscall page");
	refuse(WITH(va, 0x0000900000000000UL), -ENOMEM, "a non-canonical address");
	refuse(WITH(length, 1UL << 40), -ERANGE, "longer than the window");
	refuse(WITH(length, window.length - PAGE), -ENOMEM, "longer than the mapping");
	refuse(WITH(va, 0x1000), -ENOMEM, "nothing mapped there");
	refuse(WITH(va, good.va - PAGE), -EEXIST, "a page that is there");
#undef WITH
}

static void test_batches(void)
{
	struct moult_range ranges[3];
	struct moult_attach call;

	ranges[0] = range_of(va + PAGE, 2, 1, RW);
	ranges[1] = range_of(va + 2 * PAGE, 2, 5, RW);
	CHECK_EQ(attach_ranges(ranges, 2, 0), -EINVAL, "overlapping ranges");
	CHECK_EQ(last_attach.failed, 1, "and the second is named");
	ranges[1] = range_of(va, 1, 5, RW);
	CHECK_EQ(attach_ranges(ranges, 2, 0), -EINVAL, "unsorted ranges");
	CHECK(untouched(), "nothing is attached");

	/* All or nothing: the last of three meets a page. */
	va[9 * PAGE] = 3;
	ranges[0] = range_of(va + PAGE, 2, 1, RW);
	ranges[1] = range_of(va + 4 * PAGE, 2, 5, RW);
	ranges[2] = range_of(va + 7 * PAGE, 4, 9, RW);
	CHECK_EQ(attach_ranges(ranges, 3, 0), -EEXIST, "the third range meets a page");
	CHECK_EQ(last_attach.failed, 2, "and is named");
	CHECK(page_holds(va + PAGE, 0) && page_holds(va + 4 * PAGE, 0) && page_holds(va + 7 * PAGE, 0) &&
		      page_holds(va + 8 * PAGE, 0) && va[9 * PAGE] == 3,
	      "what the others had installed is gone, what was there stays");
	madvise(va + PAGE, (PAGES - 1) * PAGE, MADV_DONTNEED);
	CHECK_EQ(attach_ranges(ranges, 3, 0), 0, "the same batch works when the page is gone");
	munmap(va + PAGE, (PAGES - 1) * PAGE);
	va = mmap(va, PAGES * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	memset(va, 0x11, PAGE);

	CHECK_EQ(attach_ranges(ranges, 0, 0), -EINVAL, "no ranges");
	CHECK_EQ(attach_ranges(ranges, MOULT_MAX_RANGES + 1, 0), -E2BIG, "too many ranges");
	CHECK_EQ(attach_ranges(ranges, 0xffffffff, 0), -E2BIG, "very many ranges");
	CHECK_EQ(attach_ranges(NULL, 1, 0), -EFAULT, "no array");
	CHECK_EQ(attach_ranges((void *)0xffff888000000000UL, 1, 0), -EFAULT, "an array in the kernel");
	CHECK_EQ(attach_ranges((void *)0xffff888000000000UL, MOULT_MAX_RANGES, 0), -EFAULT, "a long one");
	CHECK_EQ(attach_ranges(ranges, 1, 0x80000000), -EINVAL, "unknown flags");
	call = (struct moult_attach){ .size = 8 };
	CHECK(ioctl(device, MOULT_ATTACH, &call) == -1 && errno == EINVAL, "a short struct");
	call.size = 0xffffffff;
	CHECK(ioctl(device, MOULT_ATTACH, &call) == -1 && errno == E2BIG, "an endless struct");
	CHECK(ioctl(device, MOULT_ATTACH, NULL) == -1 && errno == EFAULT, "no struct");
	CHECK(untouched(), "nothing is attached");
}

static void refuse_at(void *at, int prot, int want, const char *text)
{
	CHECK_EQ(at == MAP_FAILED ? -1 : attach(at, 1, 1, prot), want, text);
}

static unsigned long mapping_address(const char *name)
{
	unsigned long start = 0;
	char line[256];
	FILE *maps = fopen("/proc/self/maps", "re");

	while (maps && fgets(line, sizeof(line), maps))
		if (!start && strstr(line, name))
			start = strtoul(line, NULL, 16);
	if (maps)
		fclose(maps);
	return start;
}

/* Memory of a device, which its driver maps: VM_IO and VM_PFNMAP. MAP_FAILED: no device lets it be mapped. */
static void *map_bar(void)
{
	DIR *devices = opendir("/sys/bus/pci/devices");
	void *at = MAP_FAILED;
	struct dirent *entry;

	while (devices && at == MAP_FAILED && (entry = readdir(devices))) {
		for (int bar = 0; bar < 6 && at == MAP_FAILED; bar++) {
			char path[512];
			int fd;

			snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%d", entry->d_name, bar);
			fd = open(path, O_RDWR | O_CLOEXEC);
			if (fd < 0)
				continue;
			at = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
			close(fd);
		}
	}
	if (devices)
		closedir(devices);
	return at;
}

static void test_special(void)
{
	void *at = map_bar();

	refuse_at((void *)mapping_address("[vvar]"), PROT_READ, -EOPNOTSUPP, "the kernel's vvar pages");
	if (at == MAP_FAILED)
		skip("a device's memory", "no PCI device lets its BAR be mapped");
	else
		refuse_at(at, RW, -EOPNOTSUPP, "a device's memory");
	at = map_pages(1, RW);
	if (syscall(SYS_mseal_number, at, PAGE, 0))
		skip("sealed memory", "this kernel has no mseal (since 6.10)");
	else
		refuse_at(at, RW, -EOPNOTSUPP, "sealed memory");
	at = mmap(NULL, PAGE, RW, MAP_DROPPABLE_TYPE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		skip("droppable memory", "this kernel has none (since 6.11)");
	else
		refuse_at(at, RW, -EOPNOTSUPP, "droppable memory");
}

static void test_kinds(void)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	int memfd = memfd_create("moult", MFD_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg;
	void *at;
	int uffd;

	if (ftruncate(memfd, PAGE))
		die("memfd");
	refuse_at(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0), PROT_READ, -EOPNOTSUPP, "a private file mapping");
	refuse_at(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0), PROT_READ, -EOPNOTSUPP, "a shared file mapping");
	refuse_at(mmap(NULL, PAGE, RW, MAP_SHARED, memfd, 0), RW, -EOPNOTSUPP, "a memfd");
	refuse_at(mmap(NULL, PAGE, RW, MAP_PRIVATE, memfd, 0), RW, -EOPNOTSUPP, "a private memfd mapping");
	refuse_at(mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0), RW, -EOPNOTSUPP, "shared anonymous memory");
	refuse_at(mmap(NULL, PAGE, RW, MAP_PRIVATE, zero, 0), RW, -EOPNOTSUPP, "/dev/zero");
	refuse_at((void *)mapping_address("[vdso]"), PROT_READ | PROT_EXEC, -EOPNOTSUPP, "the vdso");
	at = mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	refuse_at(at, RW, -EOPNOTSUPP, "locked memory");
	if (write_file("/proc/sys/vm/nr_hugepages", "2")) {
		at = mmap(NULL, 2 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (at != MAP_FAILED)
			refuse_at(at, RW, -EOPNOTSUPP, "hugetlb memory");
		else
			skip("hugetlb memory", "no huge page is free");
		write_file("/proc/sys/vm/nr_hugepages", "0");
	}
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		die("userfaultfd");
	at = map_pages(1, RW);
	reg = (struct uffdio_register){ .range = { (uintptr_t)at, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		die("UFFDIO_REGISTER");
	refuse_at(at, RW, -EOPNOTSUPP, "memory with a userfaultfd");
	close(uffd);
	refuse_at(at, RW, 0, "the same without it");
	at = map_pages(1, RW);
	if (*(volatile char *)at)
		die("zero page");
	refuse_at(at, RW, -EEXIST, "a page that was only read: the zero page is there");
	refuse_at(map_pages(1, PROT_READ), RW, -EACCES, "another protection");

	/* Two mappings that touch. */
	at = map_pages(4, RW);
	mprotect((char *)at + 2 * PAGE, 2 * PAGE, PROT_READ);
	CHECK_EQ(attach(at, 4, 1, RW), -ENOMEM, "a range over two mappings");
	CHECK(page_holds(at, 0), "attaches nothing");
}

/* Ranges in the thousands, each of one page, then with an error at the end. */
static void test_many(void)
{
	const size_t count = MOULT_MAX_RANGES / 2;
	struct moult_range *ranges = calloc(count, sizeof(*ranges));
	char *big = map_pages(2 * count, RW);
	bool right = true;

	for (size_t i = 0; i < count; i++)
		ranges[i] = range_of(big + 2 * i * PAGE, 1, i % 1000 + 1, RW);
	big[2 * (count - 1) * PAGE] = 1;
	CHECK_EQ(attach_ranges(ranges, count, 0), -EEXIST, "the last of 32768 ranges fails");
	for (size_t i = 0; i < count - 1; i += 97)
		right = right && page_holds(big + 2 * i * PAGE, 0);
	CHECK(right, "none is left");
	madvise(big, 2 * count * PAGE, MADV_DONTNEED);
	CHECK_EQ(attach_ranges(ranges, count, 0), 0, "32768 ranges at once");
	for (size_t i = 0; i < count; i += 97)
		right = right && page_holds(big + 2 * i * PAGE, PATTERN(i % 1000 + 1)) &&
			page_holds(big + (2 * i + 1) * PAGE, 0);
	CHECK(right, "all are right");
	munmap(big, 2 * count * PAGE);
	free(ranges);
}

int main(void)
{
	struct moult_extent all;

	setup();
	va = map_pages(PAGES, RW);
	memset(va, 0x11, PAGE);
	test_numbers();
	va = mmap(va, PAGES * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	memset(va, 0x11, PAGE);
	test_batches();
	test_kinds();
	test_special();
	test_many();
	munmap(va, PAGES * PAGE);
	all = extent_of(1000, window_pages() - 1000);
	CHECK_EQ(ioctl(device, MOULT_BUSY, &all), 0, "MOULT_BUSY");
	CHECK(!all.mapped && !all.pinned, "no refused call left an entry");
	return finish();
}
