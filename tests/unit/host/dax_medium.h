// SPDX-License-Identifier: Apache-2.0
//
// A medium of memory alone that records what is stored and persisted, so that a test can have what a power
// cut at any point may leave: units of 8 bytes, each as it was last persisted, or with any later value.
#ifndef MOULT_TESTS_UNIT_HOST_DAX_MEDIUM_H_
#define MOULT_TESTS_UNIT_HOST_DAX_MEDIUM_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "pool/dax/allocate.h"
#include "pool/dax/volume.h"

namespace moult::host::testing {

inline constexpr uint64_t kUnit = 8;
inline constexpr uint64_t kCacheLine = 64;
inline constexpr uint64_t kSmallBlock = 4096;

struct DaxEvent {
  bool persist;
  DaxRange range;
  std::vector<std::byte> bytes;  // of a store
};

class RecordedMedium final : public DaxMedium {
 public:
  explicit RecordedMedium(uint64_t size) : memory_(size) {}
  explicit RecordedMedium(std::vector<std::byte> memory) : memory_(std::move(memory)) {}

  const std::string& path() const override { return path_; }
  absl::Span<const std::byte> bytes() const override { return memory_; }
  uint64_t align() const override { return align_; }
  void Store(uint64_t at, absl::Span<const std::byte> from) override {
    std::copy(from.begin(), from.end(), memory_.begin() + static_cast<std::ptrdiff_t>(at));
    log_.push_back({false, {at, from.size()}, {from.begin(), from.end()}});
  }
  void StoreWord(uint64_t at, uint64_t value) override {
    EXPECT_EQ(at % kUnit, 0u);
    std::byte bytes[sizeof(value)];
    std::memcpy(bytes, &value, sizeof(value));
    Store(at, bytes);
    if (after_word_) after_word_();
  }
  absl::Status Persist(DaxRange range) override {
    log_.push_back({true, range, {}});
    return absl::OkStatus();
  }
  absl::Status LockForWriting(Clock::time_point) override { return absl::OkStatus(); }
  absl::Status Hold(absl::Span<const DaxRange> ranges) override {
    for (const DaxRange& range : ranges) holds_.push_back(range);
    if (after_hold_) std::exchange(after_hold_, nullptr)();
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<DaxRange>> Held(DaxRange range) const override {
    std::vector<DaxRange> held;
    for (const DaxRange& one : held_) {
      const uint64_t first = std::max(one.at, range.at);
      const uint64_t end = std::min(one.end(), range.end());
      if (first < end) held.push_back({first, end - first});
    }
    return held;
  }

  std::vector<std::byte> memory_;
  std::vector<DaxEvent> log_;
  std::vector<DaxRange> holds_;       // of this one
  std::vector<DaxRange> held_;        // by others; rising
  std::function<void()> after_hold_;  // once
  std::function<void()> after_word_;
  uint64_t align_ = 4096;

 private:
  const std::string path_ = "/dev/dax9.9";
};

// What there is after events that were applied so far.
class PowerCut {
 public:
  explicit PowerCut(std::vector<std::byte> durable) : durable_(durable), latest_(std::move(durable)) {}

  void Apply(const DaxEvent& event) {
    if (event.persist) {
      // What is flushed are whole lines.
      const uint64_t first = event.range.at / kCacheLine * kCacheLine;
      const uint64_t end = (event.range.end() + kCacheLine - 1) / kCacheLine * kCacheLine;
      for (auto unit = pending_.lower_bound(first); unit != pending_.end() && unit->first < end;) {
        std::memcpy(&durable_[unit->first], &latest_[unit->first], kUnit);
        unit = pending_.erase(unit);
      }
      return;
    }
    for (uint64_t unit = 0; unit < Units(event); ++unit) ApplyUnit(event, unit);
  }
  // Of a store: the `nth` of the units that it touches.
  void ApplyUnit(const DaxEvent& event, uint64_t nth) {
    const uint64_t unit = (event.range.at / kUnit + nth) * kUnit;
    const uint64_t at = std::max(unit, event.range.at);
    const uint64_t end = std::min(unit + kUnit, event.range.end());
    std::memcpy(&latest_[at], &event.bytes[at - event.range.at], end - at);
    uint64_t value;
    std::memcpy(&value, &latest_[unit], kUnit);
    pending_[unit].push_back(value);
  }
  static uint64_t Units(const DaxEvent& event) {
    return event.persist ? 1 : (event.range.end() + kUnit - 1) / kUnit - event.range.at / kUnit;
  }
  // `choose(n)`: which of n + 1 values a unit has; 0: what was persisted, n: what was stored last.
  std::vector<std::byte> Image(const std::function<uint64_t(uint64_t n)>& choose) const {
    std::vector<std::byte> image = durable_;
    for (const auto& [unit, values] : pending_) {
      const uint64_t which = choose(values.size());
      if (which != 0) std::memcpy(&image[unit], &values[which - 1], kUnit);
    }
    return image;
  }

 private:
  std::vector<std::byte> durable_, latest_;
  std::map<uint64_t, std::vector<uint64_t>> pending_;  // unit -> what was stored since it was persisted
};

inline DaxMedium::Clock::time_point DaxDeadline() { return DaxMedium::Clock::now() + std::chrono::seconds(20); }

// The content of a template of this name.
class DaxBytes {
 public:
  explicit DaxBytes(const std::string& name) : seed_(std::hash<std::string>()(name)) {}
  std::byte operator[](uint64_t at) const {
    return std::byte(((at * 0x9e3779b97f4a7c15 >> 40) ^ seed_) % 255 + 1);
  }

 private:
  const uint64_t seed_;
};

// A template whose content follows from its name and size.
struct DaxSample {
  std::string name;
  uint64_t pages = 1;
  std::string manifest = "manifest of " + name;
  std::string image = "image of " + name;

  DaxContent content() const {
    DaxContent content{name, "red", manifest, image, pages * 4096, {}};
    content.read_pages = [expected = DaxBytes(name)](uint64_t at, absl::Span<std::byte> to) {
      for (uint64_t i = 0; i < to.size(); ++i) to[i] = expected[at + i];
      return absl::OkStatus();
    };
    return content;
  }
};

// All bytes of an entry, one block behind the other.
inline std::vector<std::byte> BytesOf(const DaxMedium& medium, const DaxGeometry& geometry,
                                      const DaxEntry& entry) {
  std::vector<std::byte> bytes;
  for (const DaxRange& range : entry.ranges(geometry)) {
    const auto part = medium.bytes().subspan(range.at, range.length);
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  return bytes;
}

inline std::string TextAt(const std::vector<std::byte>& bytes, uint64_t at, uint64_t length) {
  return {reinterpret_cast<const char*>(bytes.data()) + at, length};
}

// "" when the entry has what the sample of that name has.
inline std::string WhatIsWrong(const DaxMedium& medium, const DaxGeometry& geometry, const DaxEntry& entry) {
  const DaxSample sample{entry.name, entry.pages_size / 4096};
  const std::vector<std::byte> bytes = BytesOf(medium, geometry, entry);
  const DaxBytes expected(entry.name);
  for (uint64_t at = 0; at < entry.pages_size; ++at) {
    if (bytes[at] != expected[at]) return absl::StrCat(entry.name, ": byte ", at, " of its pages");
  }
  if (TextAt(bytes, entry.manifest_at(geometry), entry.manifest_size) != sample.manifest)
    return entry.name + ": manifest";
  if (TextAt(bytes, entry.image_at(geometry), entry.image_size) != sample.image)
    return entry.name + ": image";
  if (entry.digest != image::Sha256Of(sample.manifest) || entry.tenant != "red")
    return entry.name + ": digest";
  return "";
}

inline std::vector<std::string> NamesIn(const DaxDirectory& directory) {
  std::vector<std::string> names;
  for (const DaxEntry& entry : directory.entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_DAX_MEDIUM_H_
