// SPDX-License-Identifier: Apache-2.0
//
// Where QEMU says that guest memory is, with a QEMU that says what the test wants.
#include "qemu/memory_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>

#include "qemu/translations.h"

namespace moult::qemu {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

// One memory backend of the fake.
struct FakeBackend {
  std::string type = "memory-backend-memfd";
  bool is_backend = true;
  bool shared = true;
  int fd = 7;
  uint64_t size = 5 * kGiB;
  uint64_t ram_addr = 0;
  void* hva = nullptr;
};

struct FakeRange {
  uint64_t start;
  uint64_t length;
  FakeBackend* region;
  uint64_t offset;
};

std::map<std::string, FakeBackend> objects;
std::vector<FakeRange> ranges;
std::pair<uint64_t, uint64_t> dropped;

// SAFETY: these types are the adapter's names for what it never looks into; here they are FakeBackends.
FakeBackend& Of(const void* object) { return *static_cast<FakeBackend*>(const_cast<void*>(object)); }

Api FakeApi() {
  Api api{};
  api.object_resolve_path = [](const char* path, bool*) -> Object* {
    const auto found = objects.find(std::string(path).substr(std::strlen("/objects/")));
    return found == objects.end() ? nullptr : reinterpret_cast<Object*>(&found->second);
  };
  api.object_dynamic_cast = [](Object* object, const char*) {
    return Of(object).is_backend ? object : nullptr;
  };
  api.object_get_typename = [](const Object* object) { return Of(object).type.c_str(); };
  api.object_property_get_bool = [](Object* object, const char*, Error**) { return Of(object).shared; };
  api.error_free = [](Error*) {};
  api.host_memory_backend_get_memory = [](HostMemoryBackend* backend) {
    return reinterpret_cast<MemoryRegion*>(backend);
  };
  api.memory_region_get_ram_ptr = [](MemoryRegion* region) { return Of(region).hva; };
  api.memory_region_size = [](MemoryRegion* region) { return Of(region).size; };
  api.memory_region_get_ram_addr = [](MemoryRegion* region) { return Of(region).ram_addr; };
  api.memory_region_get_fd = [](MemoryRegion* region) { return Of(region).fd; };
  api.address_space_get_flatview = [](AddressSpace*) -> FlatView* { return nullptr; };
  api.flatview_unref = [](FlatView*) {};
  api.flatview_for_each_range = [](FlatView*, FlatRangeCallback callback, void* opaque) {
    for (const FakeRange& range : ranges) {
      if (callback(range.start, range.length, reinterpret_cast<MemoryRegion*>(range.region), range.offset,
                   opaque))
        return;
    }
  };
  api.tb_invalidate_phys_range = [](uint64_t start, uint64_t end) { dropped = {start, end}; };
  return api;
}

class MemoryMapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    objects.clear();
    ranges.clear();
    objects["ram"] = {.hva = reinterpret_cast<void*>(0x7f0000000000)};
    objects["window"] = {
        .type = "memory-backend-ram", .shared = false, .fd = -1, .size = 2 * kGiB, .ram_addr = 6 * kGiB};
  }
  const Api api_ = FakeApi();
};

TEST_F(MemoryMapTest, Ram_ContinuesAboveFourGiB) {
  FakeBackend* ram = &objects["ram"];
  FakeBackend* window = &objects["window"];
  FakeBackend firmware{.type = "rom"};
  // As q35 has it: a hole for the VGA, PCI below 4 GiB, the rest above, and there the window.
  ranges = {{0, 640 * 1024, ram, 0},
            {640 * 1024, 128 * 1024, &firmware, 0},
            {768 * 1024, 256 * 1024, ram, 768 * 1024},
            {kMiB, 2 * kGiB - kMiB, ram, kMiB},
            {0xfffc0000, 256 * 1024, &firmware, 0},
            {4 * kGiB, 3 * kGiB, ram, 2 * kGiB},
            {512 * kGiB, 2 * kGiB, window, 0}};
  const auto backend = FindRam(api_, "ram");
  ASSERT_TRUE(backend.ok()) << backend.status();
  const std::vector<Backend> backends{*backend};
  const std::vector<moult_region> regions = Regions(Locate(api_, backends));
  ASSERT_EQ(regions.size(), 3u);
  const struct {
    uint64_t gpa, length, offset;
  } wanted[] = {
      {0, 640 * 1024, 0}, {768 * 1024, 2 * kGiB - 768 * 1024, 768 * 1024}, {4 * kGiB, 3 * kGiB, 2 * kGiB}};
  for (size_t i = 0; i < regions.size(); ++i) {
    EXPECT_EQ(regions[i].gpa, wanted[i].gpa) << i;
    EXPECT_EQ(regions[i].length, wanted[i].length) << i;
    EXPECT_EQ(regions[i].fd_offset, wanted[i].offset) << i;
    EXPECT_EQ(regions[i].hva, static_cast<char*>(ram->hva) + wanted[i].offset) << i;
    EXPECT_EQ(regions[i].fd, 7) << i;
  }
}

TEST_F(MemoryMapTest, Neighbours_AreJoinedOnlyWhereBothSidesContinue) {
  FakeBackend* ram = &objects["ram"];
  const auto backend = FindRam(api_, "ram");
  ASSERT_TRUE(backend.ok());
  const std::vector<Backend> backends{*backend};
  // The same addresses in another order of the memory behind them, and a piece that is no whole pages.
  ranges = {{0, kMiB, ram, 0},
            {kMiB, kMiB, ram, 3 * kMiB},
            {2 * kMiB, kMiB, ram, 4 * kMiB},
            {8 * kMiB, 100, ram, 8 * kMiB}};
  const std::vector<Placed> placed = Locate(api_, backends);
  ASSERT_EQ(placed.size(), 2u);
  EXPECT_EQ(placed[0].length, kMiB);
  EXPECT_EQ(placed[1].gpa, kMiB);
  EXPECT_EQ(placed[1].length, 2 * kMiB);
  EXPECT_EQ(placed[1].offset, 3 * kMiB);
}

TEST_F(MemoryMapTest, Ram_ThatCannotBeGivenBackIsRefused) {
  EXPECT_THAT(FindRam(api_, "none").status().message(), HasSubstr("-object memory-backend-...,id=none"));
  objects["tap"] = {.is_backend = false};
  EXPECT_EQ(FindRam(api_, "tap").status().code(), absl::StatusCode::kNotFound);
  const FakeBackend refused[] = {{.shared = false},
                                 {.fd = -1},
                                 {.type = "memory-backend-file"},
                                 {.type = "memory-backend-ram", .shared = true, .fd = -1},
                                 {.type = "memory-backend-epc"}};
  for (const FakeBackend& backend : refused) {
    objects["ram"] = backend;
    const absl::Status status = FindRam(api_, "ram").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << backend.type;
    EXPECT_THAT(status.message(), HasSubstr("use memory-backend-memfd,share=on"));
  }
  objects["ram"] = {.type = "memory-backend-ram", .shared = false, .fd = -1};
  EXPECT_TRUE(FindRam(api_, "ram").ok());
}

TEST_F(MemoryMapTest, Windows_AreNumberedAndPlacedByTheGuest) {
  const auto window = FindWindow(api_, "window");
  ASSERT_TRUE(window.ok());
  const std::vector<moult_window> windows = Windows({*window, *window});
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1].number, 1u);
  EXPECT_EQ(windows[1].gpa, 0u);
  EXPECT_EQ(windows[1].length, 2 * kGiB);
}

TEST_F(MemoryMapTest, Translations_AreDroppedForTheRangeAlone) {
  const auto window = FindWindow(api_, "window");
  ASSERT_TRUE(window.ok());
  dropped = {};
  DropTranslations(api_, TbRange::kEndExclusive, *window, 4 * kMiB, 2 * kMiB);
  EXPECT_EQ(dropped, std::make_pair(6 * kGiB + 4 * kMiB, 6 * kGiB + 6 * kMiB));
  DropTranslations(api_, TbRange::kLastInclusive, *window, 4 * kMiB, 2 * kMiB);
  EXPECT_EQ(dropped, std::make_pair(6 * kGiB + 4 * kMiB, 6 * kGiB + 6 * kMiB - 1));
  dropped = {};
  DropTranslations(api_, TbRange::kLastInclusive, *window, 4 * kMiB, 0);
  EXPECT_EQ(dropped, (std::pair<uint64_t, uint64_t>()));
}

}  // namespace
}  // namespace moult::qemu
